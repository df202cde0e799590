"""The index of a checkpoint (`.metadata`), read without running it: torch keeps it as a pickle, and its own reader calls
whatever that names.
"""

from pathlib import PosixPath, PurePath
from pickle import Unpickler, UnpicklingError
from typing import Any, Final

import torch
from torch import serialization
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata

# What the index of a checkpoint of tensors consists of: records, and one function, which looks a layout up by its name.
# Not BytesStorageMetadata: torch unpickles such an entry without limits.
_RECORDS: Final[dict[tuple[str, str], Any]] = {
    **{
        (metadata.__name__, record.__name__): record
        for record in (
            Metadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            metadata.TensorStorageMetadata,
            metadata.ChunkStorageMetadata,
            metadata.TensorProperties,
            metadata._MEM_FORMAT_ENCODING,
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): serialization._get_layout,
    ("pathlib", "PosixPath"): PosixPath,
    ("pathlib._local", "PosixPath"): PosixPath,  # Python 3.13
}


class _IndexUnpickler(Unpickler):
    """Builds the records of an index; any other name in the file is an error."""

    def find_class(self, module: str, name: str) -> Any:
        """The record, or torch's dtype, of this name. Raises UnpicklingError for every other one."""
        if (module, name) in _RECORDS:
            return _RECORDS[module, name]
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise UnpicklingError(f"its index names {module}.{name}, which is no part of a checkpoint of tensors")


class CheckpointReader(dcp.FileSystemReader):
    """torch's reader of a checkpoint folder, for folders that somebody else may have written."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index. Raises UnpicklingError where it is more than that, or where tensors lie outside of the folder.

        Of a checkpoint that each rank indexed for itself (none of ours) there is no `.metadata`: OSError.
        """
        with self.fs.create_stream(self._get_metadata_path(), "rb") as file:
            index = _IndexUnpickler(file).load()
        if not isinstance(index, Metadata):
            raise UnpicklingError(f"its index is a {type(index).__name__}")
        for stored in index.storage_data.values():
            if PurePath(stored.relative_path).name != stored.relative_path or stored.relative_path == "..":
                raise UnpicklingError(f"its index names {stored.relative_path!r}, which is no file of its folder")
        index.storage_meta = index.storage_meta or metadata.StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index
