"""Sentence frames of fused captions, by kind of subject and by what the synthetic caption says.

{T} the title at a sentence's start, {t} inside one, {D} details (each with a leading space), {s} the subject with its
article, {S} the synthetic caption's subject at a sentence's start, {be} its verb, {pose} and {props} what the
synthetic caption adds.
"""

from __future__ import annotations

_COMMON = {
    "pose": (
        "{T}{D} is {s} {pose}.",
        "{S} {pose} {be} {t}{D}.",
        "The image shows {t}{D}, with {s} {pose}.",
        "{S} {be} {pose}, showing {t}{D}.",
        "{T}{D} is shown {pose}.",
    ),
    "props": (
        "{T}{D} is {s} with {props}.",
        "{T}{D} features {props}.",
        "The image shows {t}{D}, {s} with {props}.",
        "{S} with {props} {be} {t}{D}.",
    ),
    "both": (
        "{T}{D} is {s} with {props}, {pose}.",
        "{T}{D}, {s} with {props}, is shown {pose}.",
        "{T}{D} features {props} and is {pose}.",
        "{S} with {props} {be} {pose}, showing {t}{D}.",
    ),
    "none": (
        "{T}{D} is shown as {s}.",
        "The image shows {t}{D}, {s}.",
        "{S} {be} shown in this image of {t}{D}.",
    ),
}

FRAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "product": {
        "pose": (*_COMMON["pose"], "{T}{D} is displayed here as {s} {pose}."),
        "props": (*_COMMON["props"], "{T}{D} comes as {s} with {props}."),
        "both": _COMMON["both"],
        "none": (*_COMMON["none"], "{T}{D} is a good example of {s}."),
    },
    "artwork": {
        "pose": ("{T}{D} shows {s} {pose}.", "{T}{D} is {s} {pose}.", "{S} {pose} {be} {t}{D}."),
        "props": ("{T}{D} depicts {props}.", "{T}{D} is {s} of {props}.", "{S} with {props} {be} {t}{D}."),
        "both": ("{T}{D} is {s} of {props}, {pose}.", "{T}{D} depicts {props} and is {pose}."),
        "none": ("{T}{D} is {s}.", "The image shows {t}{D}, {s}."),
    },
    "media": {
        "pose": ("{S} for {t}{D} {be} {pose}.", "{T}{D} is {s} {pose}.", "{S} of {t}{D} {be} {pose}."),
        "props": ("{S} of {t}{D} features {props}.", "{S} for {t}{D} shows {props}.", "{T}{D} has {s} with {props}."),
        "both": ("{S} of {t}{D} shows {props} and is {pose}.", "{S} for {t}{D} features {props}, {pose}."),
        "none": ("{S} of {t}{D} {be} shown.", "This is {s} for {t}{D}."),
    },
    "person": {
        "pose": (
            "{T}{D} is seen {pose}.",
            "{T}{D} is {s} {pose}.",
            "{S} {be} {pose} in this photo of {t}{D}.",
            "{S} {pose} {be} {t}{D}.",
        ),
        "props": (
            "{T}{D} is seen with {props}.",
            "{T}{D} is {s} with {props}.",
            "This photo of {t}{D} shows {s} with {props}.",
        ),
        "both": (
            "{T}{D} is seen with {props}, {pose}.",
            "{S} with {props} {be} {pose} in this photo of {t}{D}.",
            "{T}{D}, {s} with {props}, is {pose}.",
        ),
        "none": ("{T}{D} is shown as {s}.", "This photo of {t}{D} shows {s}."),
    },
    "place": {
        "pose": (
            "{T}{D} is {s} {pose}.",
            "A view of {t}{D} shows {s} {pose}.",
            "At {t}{D}, {s} {be} {pose}.",
            "{S} {be} {pose} at {t}{D}.",
        ),
        "props": ("{T}{D} has {props}.", "{T}{D} is {s} with {props}.", "A view of {t}{D} shows {s} with {props}."),
        "both": (
            "{T}{D} is {s} with {props}, {pose}.",
            "A view of {t}{D} shows {s} with {props}, {pose}.",
            "{T}{D} has {props} and is {pose}.",
        ),
        "none": ("{T}{D} is {s}.", "A view of {t}{D} shows {s}."),
    },
    "animal": {
        "pose": (
            "{T}{D} is seen {pose}.",
            "{T}{D} is {s} {pose}.",
            "{S} {pose} {be} {t}{D}.",
            "The image shows {t}{D}, {s} {pose}.",
        ),
        "props": ("{T}{D} has {props}.", "{T}{D} is {s} with {props}.", "{S} with {props} {be} {t}{D}."),
        "both": ("{T}{D} is {s} with {props}, {pose}.", "{T}{D}, {s} with {props}, is seen {pose}."),
        "none": _COMMON["none"],
    },
    "food": {
        "pose": ("{T}{D} is {s} {pose}.", "{T}{D} is shown as {s} {pose}.", "{S} {pose} {be} {t}{D}."),
        "props": ("{T}{D} is {s} with {props}.", "{T}{D} comes with {props}.", "{T}{D} is served with {props}."),
        "both": ("{T}{D} is {s} with {props}, {pose}.", "{T}{D} comes with {props} and is {pose}."),
        "none": _COMMON["none"],
    },
    "event": {
        "pose": (
            "At {t}{D}, {s} {be} {pose}.",
            "{S} {be} {pose} at {t}{D}.",
            "{S} {be} {pose} during {t}{D}.",
            "{T}{D} shows {s} {pose}.",
        ),
        "props": (
            "At {t}{D}, there {be} {s} with {props}.",
            "{T}{D} features {s} with {props}.",
            "{S} with {props} can be seen at {t}{D}.",
        ),
        "both": ("At {t}{D}, {s} with {props} {be} {pose}.", "{S} with {props} {be} {pose} during {t}{D}."),
        "none": ("{S} can be seen at {t}{D}.", "{T}{D} shows {s}."),
    },
}

# {x} is the cleaned raw caption, unchanged.
TITLE_FRAMES = {
    "pose": (
        "The image of {x} shows {s} {pose}.",
        "{S} {be} {pose} in this image of {x}.",
        "The {x} is shown with {s} {pose}.",
        "The {x} is {s} {pose}.",
        "This image, titled {x}, shows {s} {pose}.",
    ),
    "props": (
        "The image of {x} shows {s} with {props}.",
        "The {x} features {props}.",
        "The {x} is {s} with {props}.",
        "{S} with {props} is shown in this image of {x}.",
        "This image, titled {x}, shows {s} with {props}.",
    ),
    "both": (
        "The image of {x} shows {s} with {props}, {pose}.",
        "The {x} is {s} with {props}, {pose}.",
        "{S} with {props} {be} {pose} in this image of {x}.",
    ),
    "none": (
        "The image of {x} shows {s}.",
        "The {x} is shown as {s}.",
        "This image, titled {x}, shows {s}.",
    ),
}
SENTENCE_FRAMES = {
    "pose": ("{x}, as {s} {be} seen {pose}.", "{x}, while {s} {be} {pose}.", "{x}, with {s} {pose}."),
    "props": ("{x}, as seen with {s} with {props}.", "{x}, with {s} that {have} {props}."),
    "both": ("{x}, as {s} with {props} {be} seen {pose}.", "{x}, with {s} with {props} {pose}."),
    "none": ("{x}, as shown by {s}.", "{x}, with {s}."),
}
