import pytest

from chatkit_trio import errors
from chatkit_trio.errors import (
    BaseStreamError,
    BusyError,
    ChatKitError,
    ConflictError,
    CustomStreamError,
    ErrorCode,
    ForbiddenError,
    FramesLost,
    GoneError,
    InvalidRequestError,
    ModelError,
    NotFoundError,
    ServerNotRunningError,
    StoreTimeoutError,
    StreamError,
    TooLargeError,
    UnsupportedTypeError,
    WidgetTemplateError,
)


@pytest.mark.parametrize(
    ("error", "text", "allow_retry"),
    [
        (StreamError(ErrorCode.STREAM_ERROR), "stream.error", True),
        (StreamError(ErrorCode.STREAM_ERROR, allow_retry=False), "stream.error", False),
        (CustomStreamError("No seats left."), "No seats left.", False),
        (CustomStreamError("Try later.", allow_retry=True), "Try later.", True),
    ],
)
def test_a_stream_error_says_what_it_is_and_whether_to_retry(
    error: BaseStreamError, text: str, allow_retry: bool
) -> None:
    assert (str(error), error.allow_retry) == (text, allow_retry)


def test_an_unknown_code_has_status_500_and_no_retry() -> None:
    error = StreamError("quota.exceeded")  # type: ignore[arg-type]

    assert (str(error), error.status_code, error.allow_retry) == ("quota.exceeded", 500, False)


@pytest.mark.parametrize(
    ("error_class", "http_status", "code", "builtin"),
    [
        (ChatKitError, 500, "internal", Exception),
        (InvalidRequestError, 400, "invalid_request", ValueError),
        (NotFoundError, 404, "not_found", ChatKitError),
        (ConflictError, 409, "conflict", ChatKitError),
        (BusyError, 409, "busy", ConflictError),
        (TooLargeError, 413, "too_large", ChatKitError),
        (UnsupportedTypeError, 415, "unsupported_type", ChatKitError),
        (ForbiddenError, 403, "forbidden", ChatKitError),
        (GoneError, 410, "expired", ChatKitError),
        (FramesLost, 410, "frames_lost", ChatKitError),
        (ModelError, 500, "model", ChatKitError),
        (ServerNotRunningError, 503, "not_running", RuntimeError),
        (StoreTimeoutError, 503, "store_timeout", ChatKitError),
        (WidgetTemplateError, 500, "widget_template", ValueError),
    ],
)
def test_each_error_knows_its_status_code_and_kin(
    error_class: type[ChatKitError], http_status: int, code: str, builtin: type[Exception]
) -> None:
    error = error_class("thread thr_1 is gone")

    assert (error.http_status, error.code) == (http_status, code)
    assert isinstance(error, ChatKitError)
    assert isinstance(error, builtin)
    assert str(error) == "thread thr_1 is gone"


def test_no_two_errors_share_a_code() -> None:
    tree = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ChatKitError)
    ]
    codes = [error.code for error in tree]
    assert len(codes) >= 8
    assert len(set(codes)) == len(codes)
