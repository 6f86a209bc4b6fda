from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from hypothesis import assume, example, given
from hypothesis import strategies as st

from chatkit_trio.web._multipart import MultipartFile

# The pieces of which a boundary is made are what a parser can mistake.
CONTENTS = st.lists(
    st.one_of(st.binary(max_size=20), st.sampled_from([b"\r", b"\n", b"-", b"--", b"--xy", b"z"]))
).map(b"".join)


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        await trio.lowlevel.checkpoint()
        yield body[start : start + size]


async def read(body: bytes, size: int) -> bytes:
    return b"".join([chunk async for chunk in MultipartFile(in_pieces(body, size), "xyz")])


@given(content=CONTENTS, size=st.integers(1, 50), end=st.sampled_from([b"--", b"--\r\n"]))
@example(content=b"\n", size=1, end=b"--\r\n")
def test_a_file_is_the_same_however_its_form_is_cut_into_pieces(
    content: bytes, size: int, end: bytes
) -> None:
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    assume(b"--xyz" not in content)
    assert trio.run(read, head + content + b"\r\n--xyz" + end, size) == content
