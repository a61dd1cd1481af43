"""The builtin corpus: the running interpreter's own library."""

from pathlib import Path

import pytest

from monosem.errors import UserError
from monosem.subject import builtin


def test_the_library_is_sorted_and_holds_nothing_installed() -> None:
    names = builtin.library_files()
    assert names == sorted(names)
    assert len(names) > 500
    assert "json/decoder.py" in names
    assert not [name for name in names if "site-packages" in name or "dist-packages" in name or "__pycache__" in name]


def test_about_a_tenth_of_the_files_is_held_out() -> None:
    names = builtin.library_files()
    assert 0.05 < sum(map(builtin.is_held_out, names)) / len(names) < 0.15


def test_the_split_is_the_same_everywhere_and_for_ever() -> None:
    names = ["abc.py", "calendar.py", "json/decoder.py", "asyncio/subprocess.py"]
    assert [builtin.is_held_out(name) for name in names] == [False, True, False, True]


def test_a_library_without_sources_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "installed.py").write_text("not the library's")
    with pytest.raises(UserError, match=r"holds no \.py file; .* name your own text with --text"):
        builtin.library_files(tmp_path)


def test_empty_files_and_other_encodings_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.py").write_bytes("b = 'ü'".encode())
    (tmp_path / "a.py").write_bytes("a = 'ü'".encode("latin-1"))
    (tmp_path / "c.py").write_bytes(b"")
    (tmp_path / "d.py").write_bytes(b"d = 1\r\n")
    assert list(builtin.library_documents(tmp_path)) == [("d.py", "d = 1\r\n"), ("deep/b.py", "b = 'ü'")]
