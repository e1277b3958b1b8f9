"""A folder of test sets in the formats of NTREX-128, FLORES+ and SIB-200, with invented sentences."""

import json
from pathlib import Path

_ANIMALS = {"cat": "ឆ្មា", "dog": "ឆ្កែ", "cow": "គោ", "bird": "បក្សី"}
_PLACES = {"market": "ផ្សារ", "school": "សាលា", "river": "ទន្លេ", "rice field": "វាលស្រែ", "house": "ផ្ទះ"}
_TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")

# With a number that is the same in both languages, as in real text.
ENGLISH = [f"The {animal} goes to the {place} {len(place)} times a day." for animal in _ANIMALS for place in _PLACES]
KHMER = [
    f"{animal}ទៅ{khmer} {len(place)} ដងក្នុងមួយថ្ងៃ។" for animal in _ANIMALS.values() for place, khmer in _PLACES.items()
]


def write_ntrex(folder: Path, km: list[str] = KHMER, en: list[str] = ENGLISH) -> None:
    """With the line ends of the published files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("newstest2019-ref.khm.txt", km), ("newstest2019-src.eng.txt", en)):
        (folder / name).write_bytes("".join(f"{text}\r\n" for text in texts).encode())


def write_flores(folder: Path) -> None:
    (folder / "devtest").mkdir(parents=True)
    for code, texts in (("khm_Khmr", KHMER), ("eng_Latn", ENGLISH)):
        lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(texts)]
        (folder / "devtest" / f"{code}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sib200(folder: Path) -> None:
    """20 sentences for test and 20 for training; the first with quotation marks, doubled as in the published files."""
    for code, texts in (("khm_Khmr", KHMER), ("eng_Latn", ENGLISH)):
        (folder / code).mkdir(parents=True)
        lines = [f"{number}\t{_TOPICS[number % 7]}\t{text}" for number, text in enumerate(texts)]
        lines[0] = f'0\t{_TOPICS[0]}\t"{texts[0]} ""{texts[1]}"""'
        table = "\n".join(["index_id\tcategory\ttext", *lines, ""])
        for split in ("train", "test"):
            (folder / code / f"{split}.tsv").write_text(table, encoding="utf-8")


def write_all(folder: Path) -> Path:
    write_ntrex(folder / "NTREX-128")
    write_flores(folder / "flores_plus")
    write_sib200(folder / "sib200")
    return folder
