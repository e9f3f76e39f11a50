"""A base image from Debian's own packages, where no registry of images can be reached."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scripts.image.engine import call, say

SUITE = "bookworm"
# python3-distutils by name: debootstrap cannot resolve the virtual package that python3.11-venv asks for.
PACKAGES = ("ca-certificates", "python3-venv", "python3-distutils")
DEFAULT_MIRROR = "http://deb.debian.org/debian"


def make_base(buildah: Sequence[str], scratch: Path) -> str:
    """The name of the base image; made by debootstrap the first time, and found in the store from then on."""
    mirror = os.environ.get("IMAGE_DEBIAN_MIRROR", DEFAULT_MIRROR)
    recipe = hashlib.sha256("\n".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    name = f"localhost/imprint-base:{SUITE}-{recipe}"
    if subprocess.run([*buildah, "inspect", "--type=image", name], check=False, capture_output=True).returncode == 0:
        return name
    say(f"making the base image: Debian {SUITE} with {', '.join(PACKAGES)}")
    packages, tree, archive = scratch / "debs", scratch / "rootfs", scratch / "rootfs.tar"
    packages.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    options = ["--variant=minbase", f"--cache-dir={packages}", f"--include={','.join(PACKAGES)}"]
    call(["debootstrap", *options, SUITE, str(tree), mirror], show=True)
    shutil.rmtree(tree / "var/cache/apt/archives")
    shutil.rmtree(tree / "var/lib/apt/lists")
    call(["tar", "-C", str(tree), "-cf", str(archive), "."])
    container = call([*buildah, "from", "scratch"]).strip()
    call([*buildah, "add", "--quiet", container, str(archive), "/"])
    call([*buildah, "commit", "--quiet", "--format=docker", "--rm", container, name])
    shutil.rmtree(tree)
    archive.unlink()
    return name
