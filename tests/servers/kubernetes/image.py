#!/usr/bin/env python3
"""Makes a docker-archive image of static programs, without registry or builder.

image.py REFERENCE ARCHIVE DIRECTORY PROGRAM...

The programs go into DIRECTORY of the image; the first is the entry point.
"""
import hashlib
import io
import json
import os
import sys
import tarfile


def add(archive, name, data, mode=0o644):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def main():
    reference, archive, directory, *programs = sys.argv[1:]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(tmp)
        for program in programs:
            with open(program, "rb") as file:
                name = os.path.join(directory, os.path.basename(program))
                add(layer, name.lstrip("/"), file.read(), 0o755)
    layer = buffer.getvalue()
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "Entrypoint": [os.path.join(directory, os.path.basename(programs[0]))],
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as image:
        add(image, name, config)
        add(image, "layer.tar", layer)
        add(image, "manifest.json", json.dumps(manifest).encode())


main()
