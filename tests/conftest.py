"""Settings for all tests."""

from hypothesis import settings

# A busy machine makes an example slow, not wrong; a hang is faulthandler's affair.
settings.register_profile("chatkit_trio", deadline=None)
settings.load_profile("chatkit_trio")
