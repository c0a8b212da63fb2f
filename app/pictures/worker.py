"""A process that decodes pictures for the service: `python -m app.pictures.worker FD MEMORY_BYTES CPU_S`.

A decoder may need any amount of time and memory for a hostile picture, and may even run code that is hidden in it. So
this process has limits, no secrets, and no way to open files or to start programs. It ends with the first picture that
takes more than `CPU_S` of processor time. It reads requests from the socket FD and ends with it. POSIX only.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from app.errors import EmptyUpload, PictureTooLarge, UnreadablePicture, UnsupportedMediaType
from app.pictures.decode import TOO_MUCH_MEMORY, Limits
from app.pictures.formats import MORE_FORMATS, SIGNATURES, is_installed, use_one_thread
from app.pictures.messages import BrokenMessage, receive_message, send_message
from app.pictures.opened import OpenOptions, open_picture

_MAX_UPLOAD_BYTES = 2**32 - 1  # the service limits uploads
REFUSALS = (EmptyUpload, PictureTooLarge, UnreadablePicture, UnsupportedMediaType)  # what a picture is answered with
assert sys.platform != "win32"  # for mypy: what follows is not there


def main() -> None:
    """Answer requests until the service closes the socket."""
    file, memory_bytes, cpu_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    connection = socket.socket(fileno=file)
    for number in (signal.SIGINT, signal.SIGTERM):  # they may be sent to a whole group, and the service still answers
        signal.signal(number, signal.SIG_IGN)  # the service ends this process, or its end closes the socket
    _load_codecs()
    with suppress(BrokenMessage):  # the service has closed the socket
        send_message(connection, {"memory_is_limited": _limit(memory_bytes)})
        while True:
            facts, data = receive_message(connection, _MAX_UPLOAD_BYTES)
            signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal, SIGPROF, ends the process
            answer = _answer(bytes(data), _options(facts))
            signal.setitimer(signal.ITIMER_PROF, 0)
            send_message(connection, *answer)


def _answer(data: bytes, options: OpenOptions) -> tuple[Any, ...]:
    """What is sent back: facts, and the pixels of the model's input and of the preview."""
    try:
        opened = open_picture(data, options)
    except REFUSALS as error:
        return ({"error": type(error).__name__, "message": str(error)},)
    except MemoryError:
        return ({"error": PictureTooLarge.__name__, "message": TOO_MUCH_MEMORY},)
    facts = {
        "width_px": opened.width_px,
        "height_px": opened.height_px,
        "format": opened.format,
        "notes": opened.notes,
        "preview_size": None if opened.preview is None else opened.preview.shape[:2],
    }
    pictures = (picture for picture in (opened.image, opened.preview) if picture is not None)
    return facts, *(np.ascontiguousarray(picture).data.cast("B") for picture in pictures)


def _options(facts: dict[str, Any]) -> OpenOptions:
    """The options in the form that JSON gives them: its lists are tuples here."""
    height, width = facts["input_size"]
    limits = Limits(**facts["limits"] | {"formats": tuple(facts["limits"]["formats"])})
    stretch = facts["stretch"]
    if isinstance(stretch, list):
        stretch = (stretch[0], stretch[1])
    return OpenOptions((height, width), limits, facts["preview_side_px"], stretch, facts["has_preview"])


def _load_codecs() -> None:
    """Load all modules that decoding needs, since none can be loaded after the limits are set."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for name in SIGNATURES:
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, name, icc_profile=profile)
        open_picture(data.getvalue(), OpenOptions((8, 8), Limits(), 8))
    for name in MORE_FORMATS:
        if is_installed(name):
            use_one_thread(name)


def _limit(memory_bytes: int) -> bool:
    """Set the limits of this process. Returns whether this system can limit the memory."""
    sys.stderr = os.fdopen(os.dup(2), "w")  # for Python's own messages
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 2)  # for libtiff, which complains to the second file of the process
    os.close(devnull)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no process can be started
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # open files and sockets stay, no new ones can be opened
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (ValueError, OSError):  # macOS refuses any limit below what a process has reserved
        return False
    return True


if __name__ == "__main__":
    main()
