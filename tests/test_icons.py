import pytest
from pydantic import TypeAdapter, ValidationError

from chatkit_trio.icons import IconName

ICON = TypeAdapter(IconName)


@pytest.mark.parametrize("name", ["sparkle", "write-alt2", "vendor:github", "lucide:upload"])
def test_an_icon_of_the_set_or_of_an_open_set_is_taken(name: str) -> None:
    assert ICON.validate_python(name) == name


@pytest.mark.parametrize("name", ["upload", "Sparkle", "my-vendor:github", ""])
def test_any_other_icon_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ICON.validate_python(name)
