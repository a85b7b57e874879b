import errno
import os

import pytest

from fedjax_norm.training.storage import atomic_files


def full(*_):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [atomic_files.write_atomic, atomic_files.append])
def test_a_full_disk_leaves_the_old_content_and_names_the_file(tmp_path, write, monkeypatch):
  file = tmp_path / "file"
  file.write_bytes(b"old")
  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", full)  # fails after all of the new content is in the file
    with pytest.raises(OSError, match="No space left") as caught:
      write(file, b"new")
  assert caught.value.filename == str(file)
  assert file.read_bytes() == b"old"
  assert os.listdir(tmp_path) == ["file"]
  write(file, b"new")
  assert (
    file.read_bytes() == {atomic_files.write_atomic: b"new", atomic_files.append: b"oldnew"}[write]
  )


def test_a_folder_of_the_same_name_is_named_in_the_error(tmp_path):
  (tmp_path / "file").mkdir()
  for write in (atomic_files.write_atomic, atomic_files.append):
    with pytest.raises(IsADirectoryError) as caught:
      write(tmp_path / "file", b"new")
    assert caught.value.filename == str(tmp_path / "file")
    assert caught.value.filename2 is None
  assert os.listdir(tmp_path) == ["file"]
