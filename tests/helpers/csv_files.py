"""CSV indexes of images that the tests write."""


def label(i):
  return ("cat", "emu", "zebra")[i % 3]


def write_index(folder, rows, header="path,label,country", name="index.csv"):
  text = "\n".join([header, *rows]) + "\n"
  (folder / name).write_text(text, encoding="utf-8")
  return f"csv:{folder / name}"


def values(examples):
  return examples.images[:, 0, 0, 0].astype(int)
