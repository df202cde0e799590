"""The Croissant file of a published corpus: its files, and a record set for each configuration.

Format: MLCommons Croissant 1.0 (docs.mlcommons.org/croissant). Fields are those of the Parquet schemas.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

# What the Hub's own Croissant files state for a repository, which has no one checksum; each file's is in the tree.
_REPOSITORY_SHA256 = "https://github.com/mlcommons/croissant/issues/80"
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source",
    "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip


def croissant(
    name: str, address: str, licence: str, configs: Mapping[str, tuple[str, pa.Schema, Mapping[str, str]]]
) -> dict[str, Any]:
    """The JSON-LD. `configs`: name -> (glob of its files, schema, column -> what it holds); `address` is the repository's."""
    repository = {
        "@type": "cr:FileObject",
        "@id": "repo",
        "name": "repo",
        "description": "The repository on the Hugging Face Hub.",
        "contentUrl": f"{address}/tree/main",
        "encodingFormat": "git+https",
        "sha256": _REPOSITORY_SHA256,
    }
    file_sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"files-of-{config}",
            "name": f"files-of-{config}",
            "containedIn": {"@id": "repo"},
            "encodingFormat": "application/x-parquet",
            "includes": pattern,
        }
        for config, (pattern, _, _) in configs.items()
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": "A corpus for safety pretraining; README.md holds its Data Safety Report Card.",
        "license": licence,
        "url": address,
        "distribution": [repository, *file_sets],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": config,
                "name": config,
                "field": _fields(config, f"files-of-{config}", schema, columns),
            }
            for config, (_, schema, columns) in configs.items()
        ],
    }


def _fields(config: str, file_set: str, schema: pa.Schema, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    return [_field(f"{config}/{f.name}", file_set, f.name, [], f.type, columns.get(f.name)) for f in schema]


def _field(
    identifier: str, file_set: str, column: str, path: Sequence[str], kind: pa.DataType, what: str | None
) -> dict[str, Any]:
    """One field; lists are `repeated`, structs have sub-fields, reached by a JSON path into the column."""
    repeated = pa.types.is_list(kind)
    inner = kind.value_type if repeated else kind
    value: dict[str, Any] = {"@type": "cr:Field", "@id": identifier, "name": identifier}
    if what:
        value["description"] = what
    if repeated:
        value["repeated"] = True
    if pa.types.is_struct(inner):
        value["subField"] = [
            _field(f"{identifier}/{inner.field(i).name}", file_set, column, [*path, inner.field(i).name],
                   inner.field(i).type, None)
            for i in range(inner.num_fields)
        ]  # fmt: skip
        return value
    value["dataType"] = _data_type(inner)
    value["source"] = {"fileSet": {"@id": file_set}, "extract": {"column": column}}
    if path:
        value["source"]["transform"] = {"jsonPath": "$." + ".".join(path)}
    return value


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
