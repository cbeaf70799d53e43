"""pynetdicom's client and server.

pynetdicom_peer.py make FOLDER NUMBER BYTES    writes made-up images to a folder
pynetdicom_peer.py server                      listens, prints its port, then what arrives and how associations end
pynetdicom_peer.py client PORT PLAN            echoes or stores the files of a plan (JSON), and prints each status
"""

import hashlib
import json
import sys
import threading
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

SUCCESS = 0x0000
ROOT = "1.2.826.0.1.3680043.8.498.1"


def make(folder: Path, number: int, size: int) -> None:
    """Write images whose pixels are a pattern."""
    for one in range(number):
        image = Dataset()
        image.SpecificCharacterSet = "ISO_IR 192"
        image.SOPClassUID = UltrasoundImageStorage
        image.SOPInstanceUID = f"{ROOT}.{one + 1}"
        image.StudyInstanceUID = image.SeriesInstanceUID = f"{ROOT}.1000"
        image.PatientName = "Müßiggänger^Jörg"
        image.PatientID = str(one)
        image.Modality = "US"
        image.SamplesPerPixel, image.BitsAllocated, image.BitsStored, image.HighBit = 1, 8, 8, 7
        image.PixelRepresentation, image.PhotometricInterpretation = 0, "MONOCHROME2"
        image.Rows, image.Columns = size // 1000, 1000
        image.PixelData = bytes((n * (one + 1)) % 251 for n in range(size // 1000 * 1000))
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(folder / f"{one:03}.dcm", enforce_file_format=True)


def say(*what: object) -> None:
    """Print a line at once."""
    print(*what, flush=True)


def stored(event: evt.Event) -> int:
    """Report an image."""
    data = event.request.DataSet.getvalue()
    say(hashlib.sha256(data).hexdigest(), event.request.AffectedSOPInstanceUID, event.context.transfer_syntax)
    return SUCCESS


def echoed(_: evt.Event) -> int:
    """Report an echo."""
    say("ECHO")
    return SUCCESS


def serve() -> None:
    """Listen on a free port."""
    entity = AE("ANY")
    entity.add_supported_context(Verification)
    entity.add_supported_context(UltrasoundImageStorage)
    handlers = [
        (evt.EVT_C_STORE, stored),
        (evt.EVT_C_ECHO, echoed),
        (evt.EVT_RELEASED, lambda _: say("RELEASED")),
        (evt.EVT_ABORTED, lambda _: say("ABORTED")),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    say(server.socket.getsockname()[1])
    threading.Event().wait()


def send(port: int, plan: dict[str, object]) -> None:
    """Echo, or store the files of a plan."""
    entity = AE("ME")
    entity.add_requested_context(Verification)
    entity.add_requested_context(UltrasoundImageStorage, ExplicitVRLittleEndian)
    files = plan["files"]
    assert isinstance(files, list)
    for group in [[one] for one in files] if plan["each"] else [files]:
        association = entity.associate("127.0.0.1", port)
        assert association.is_established
        if not group:
            say(hex(association.send_c_echo().Status))
        for file in group:
            say(hex(association.send_c_store(dcmread(file)).Status))
        (association.abort if plan["aborts"] else association.release)()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder, number, size]:
            make(Path(folder), int(number), int(size))
        case ["client", port, plan]:
            send(int(port), json.loads(Path(plan).read_text(encoding="utf-8")))
        case _:
            serve()
