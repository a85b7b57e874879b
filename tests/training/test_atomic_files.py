import errno
import json
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


def test_json_has_a_row_of_numbers_on_one_line(tmp_path):
  content = {"confusion": [[1, 0, 20], [3, 4, 5]], "text": ["[\n 1,\n 2\n]"], "none": [None, 1e-9]}
  file = tmp_path / "file.json"
  atomic_files.write_json(file, content | {"nested": [{"empty": [], "names": ["a", "b"]}]})
  lines = [line.strip() for line in file.read_text().splitlines()]
  assert {"[1, 0, 20],", "[3, 4, 5]", '"none": [null, 1e-09],'} <= set(lines)
  assert content.items() <= json.loads(file.read_text()).items()
