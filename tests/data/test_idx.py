import pytest
import torch

from neurokernels.data.idx import parse


def header(*sizes: int, kind: int = 8, magic: bytes = b"\0\0") -> bytes:
    return magic + bytes((kind, len(sizes))) + b"".join(size.to_bytes(4, "big") for size in sizes)


def test_values_come_row_by_row():
    parsed = parse(header(2, 3) + bytes((1, 2, 3, 253, 254, 255)))
    assert parsed.dtype == torch.uint8
    assert parsed.tolist() == [[1, 2, 3], [253, 254, 255]]


def test_the_tensor_is_its_own():
    content = bytearray(header(2) + b"\1\2")
    parsed = parse(bytes(content))
    parsed.fill_(9)
    assert content[-2:] == b"\1\2"


def test_no_images_is_a_valid_file():
    assert parse(header(0, 28, 28)).shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "f: expected an IDX file, which starts with two zero bytes, got none"),
        (b"\x1f\x8b\x08\x00", "f: expected an IDX file, which starts with two zero bytes, got 1f8b0800"),
        (header(2, kind=0x0D) + b"\0" * 8, r"f: expected unsigned bytes \(type 0x08\), got type 0x0d"),
        (header(2, 3)[:9], "f: expected a header with the sizes of 2 dimensions, got 9 bytes in all"),
        (header(2, 3) + b"12345", r"f: expected 6 values for the shape \[2, 3\] in its header, got 5"),
        (header(2, 3) + b"1234567", r"f: expected 6 values for the shape \[2, 3\] in its header, got 7"),
        (header(0xFFFFFFFF, 0xFFFFFFFF) + b"1", "f: expected 18446744065119617025 values"),
        (header(), "f: expected a header with the sizes of 0 dimensions, got 4 bytes in all"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content: bytes, says: str):
    with pytest.raises(ValueError, match=f"^{says}"):
        parse(content, "f")
