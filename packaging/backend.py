"""The build backend: setuptools, and one `.pth` file more in every wheel, built or editable.

A wheel's files at its root land in site-packages, are listed in RECORD and so go away on uninstall. setuptools has no
setting that puts a file there for editable wheels too; a wheel is a zip file, so the line is added after the build.
"""

import base64
import gzip
import hashlib
import io
import os
import tarfile
import time
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the other PEP 517 hooks are setuptools' own

PTH = "lm_eval_prune_startup.pth"
SOURCE = Path(__file__).parents[1] / "lm_eval_prune" / "harness" / "startup.py"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _with_pth(wheel_directory, build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory, config_settings=None):
    """As setuptools', with the dates that builds are asked to have: the same sources are the same file."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    if (epoch := os.environ.get("SOURCE_DATE_EPOCH")) is not None:
        archive = Path(sdist_directory, name)
        content = io.BytesIO()
        with tarfile.open(archive) as old, tarfile.open(fileobj=content, mode="w") as new:
            for member in sorted(old.getmembers(), key=lambda member: member.name):
                member.mtime, member.pax_headers = int(epoch), {}
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
        archive.write_bytes(gzip.compress(content.getvalue(), mtime=int(epoch)))
    return name


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return _with_pth(wheel_directory, build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


def _dated(name: str) -> zipfile.ZipInfo:
    """A file of the date that builds are asked to have (SOURCE_DATE_EPOCH), as setuptools' own files."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    info = zipfile.ZipInfo(name, max(time.gmtime(seconds)[:6], (1980, 1, 1, 0, 0, 0)))
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
    return info


def _with_pth(wheel_directory: str, name: str) -> str:
    wheel = Path(wheel_directory, name)
    original = wheel.rename(wheel.with_suffix(".plain"))
    # The interpreter runs a .pth file line by line, and only lines that begin with "import".
    content = f"import sys; exec({SOURCE.read_text(encoding='utf-8')!r}, {{}})\n".encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                data = f"{PTH},sha256={digest},{len(content)}\n".encode() + data
            new.writestr(item, data)
        new.writestr(_dated(PTH), content)
    original.unlink()
    return name
