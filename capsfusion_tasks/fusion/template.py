"""A prompt's template: text with the fields {raw} and {synthetic}. The default is the template of the paper."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from capsfusion_tasks.errors import InputError

# The template of the inference script that was released with CapsFusion (Yu et al., 2023). The model was fine-tuned on
# exactly these tokens. If a character changes, captions get worse.
PROMPT_TEMPLATE = (
    "Please merge and refine the information from the two given sentences. Sentence 1 provides detailed "
    "real-world knowledge, yet it suffers from flaws in sentence structure and grammar. Sentence 2 exhibits "
    "nice sentence structure, but lacking in-depth real-world details and may contain false information. "
    "Please combine them into a new sentence, ensuring a well-structured sentence while retaining the detailed "
    "real-world information provided in Sentence 1. Avoid simply concatenating the sentences.\n\n"
    "Sentence 1: {raw}\nSentence 2: {synthetic}\nNew Sentence:"
)

# The fields of a template, and the name that replaces each field before ``Template.digest`` hashes the text. A new name
# would change all digests.
_FIELDS = {"raw": "laion_2b", "synthetic": "laion_coco"}
_MOST_BYTES = 1 << 16  # maximum size of a template file; the 256 tokens of a prompt have only a few thousand bytes
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Template:
    """A template: its text, and the parts of this text, each with the field that follows it (None: end of the text)."""

    text: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, text: str, name: str = "the prompt") -> Template:
        """The template that ``text`` describes. Raises InputError unless its fields are {raw} and {synthetic}.

        ``name`` is what error messages call the template.
        """
        try:
            found = list(Formatter().parse(text))
        except ValueError as error:
            raise InputError(
                f"{name} is not a template: {error}. Write {{{{ and }}}} for braces that are text"
            ) from error
        for _, field, spec, conversion in found:
            if field is not None and (field not in _FIELDS or spec or conversion):
                written = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise InputError(
                    f"{name} has the field {{{written[:50]}}}: only {{raw}} and {{synthetic}} are filled in. Write"
                    " {{ and }} for braces that are text"
                )
        if missing := [f"{{{field}}}" for field in _FIELDS if field not in {part[1] for part in found}]:
            raise InputError(f"{name} has no {' and no '.join(missing)}: write each field where its caption goes")
        parts: list[tuple[str, str | None]] = []
        before = ""
        for literal, field, _, _ in found:  # the parser also ends a piece at an escaped brace: join such pieces
            before += literal
            if field is not None:
                parts.append((before, field))
                before = ""
        return cls(text, (*parts, (before, None)))

    @classmethod
    def read(cls, file: Path) -> Template:
        """The template in ``file``, without the line break at its end. Raises InputError if it is not a template."""
        try:
            with file.open("rb") as stream:
                content = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read the prompt {file}: {error.strerror or error}") from error
        if len(content) > _MOST_BYTES:
            raise InputError(f"{file} has more than {_MOST_BYTES} bytes, too many for a prompt: give another file")
        try:
            text = content.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not in UTF-8 ({error}): save it as UTF-8") from error
        if harmful := _CONTROL.search(text):
            raise InputError(f"{file} has the control character {harmful[0]!r}: remove it")
        return cls.of(text, str(file))

    def fill(self, raw: str, synthetic: str) -> str:
        """The template's text with both captions filled in."""
        captions = {"raw": raw, "synthetic": synthetic, None: ""}
        return "".join(literal + captions[field] for literal, field in self.parts)

    def digest(self, most_tokens: int) -> str:
        """A hash of the template and of ``most_tokens``, the maximum length of a prompt in tokens."""
        fields = {name: f"{{{known}}}" for name, known in _FIELDS.items()}
        text = "".join(
            literal.replace("{", "{{").replace("}", "}}") + (fields[field] if field else "")
            for literal, field in self.parts
        )
        return hashlib.blake2b(f"{text}\0{most_tokens}".encode(), digest_size=16).hexdigest()


PAPER = Template.of(PROMPT_TEMPLATE)
