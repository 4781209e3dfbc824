#!/usr/bin/env python3
"""Reads a compose file and fails where it could not start: a service without an image, a mounted file
that is not there, a dependency or a volume that nobody defines."""

import pathlib
import sys

import yaml

path = pathlib.Path(sys.argv[1])
compose = yaml.safe_load(path.read_text())
services, volumes = compose["services"], compose.get("volumes") or {}
wrong = []
for name, service in services.items():
    if not service.get("image") and not service.get("build"):
        wrong.append(f"{name} has neither an image nor a build")
    wrong += [f"{name} depends on {other}, which is no service" for other in service.get("depends_on") or {} if other not in services]
    for mount in service.get("volumes") or []:
        source = mount.split(":")[0] if isinstance(mount, str) else mount.get("source", "")
        if source.startswith("."):
            if not (path.parent / source).exists():
                wrong.append(f"{name} mounts {source}, which is not there")
        elif source and not source.startswith("/") and source not in volumes:
            wrong.append(f"{name} mounts the volume {source}, which nobody defines")
if wrong:
    sys.exit("\n".join(wrong))
print(f"{len(services)} services")
