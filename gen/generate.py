"""Makes everything under gen/ from protos/, or checks that it is fresh: see `make gen` and `make gen-check`.

Other people's protos are taken from the packages that own them into .build/protos. buf compiles all protos
once into an image; protoc and its plugins read the image, so all outputs come from the same compilation.
"""

import argparse
import filecmp
import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
GEN = ROOT / "gen"
BUILD = ROOT / ".build"
PROTOS = BUILD / "protos"
BIN = Path(sys.executable).parent
VALIDATE = "buf/validate/validate.proto"
# Not imported by our protos, but sent in error details: Envoy and reflection have to know them.
ALSO_IN_DESCRIPTOR = ("google/rpc/error_details.proto", "google/rpc/status.proto")
GO_MODULE = "openfacility.org/go"
NDJSON = "application/x-ndjson"
# Hand-written or made by `go mod tidy`; everything else under these directories is ours to replace.
KEPT = {"go.mod", "go.sum"}
DIRECTORIES = ("python", "go")
OPENAPI = Path("python/openfacility/openapi.json")

# pip asks an sdist for its metadata even where it only downloads it; the real build backend would compile.
FAKE_BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    info = Path(directory, "protovalidate.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_bytes(Path("PKG-INFO").read_bytes())
    return info.name
"""


def run(*command: object, **options: object) -> None:
    """Runs a command to its end; where it fails, so do we, with what it said and no traceback."""
    done = subprocess.run([str(part) for part in command], check=False, cwd=ROOT, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"generate: failed: {Path(str(command[0])).name} {' '.join(map(str, command[1:]))[:300]}")


def collect_protos() -> None:
    """Puts other people's protos into .build/protos."""
    import google.api  # noqa: PLC0415 (absent where only --import-all runs)
    import google.rpc  # noqa: PLC0415

    shutil.rmtree(PROTOS, ignore_errors=True)
    for package in (google.api, google.rpc):
        source = Path(next(iter(package.__path__)))
        target = PROTOS / "google" / source.name
        target.mkdir(parents=True)
        for proto in source.glob("*.proto"):
            shutil.copy(proto, target)

    downloads = BUILD / "sdist"
    backend = BUILD / "fake-backend" / "maturin"
    backend.mkdir(parents=True, exist_ok=True)
    (backend / "__init__.py").write_text(FAKE_BACKEND)
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--no-binary", ":all:", "--no-build-isolation", "--require-hashes"),
        *("--requirement", "requirements/sdist.lock", "--dest", downloads),
        env={**os.environ, "PYTHONPATH": str(backend.parent)},
    )
    with tarfile.open(max(downloads.glob("protovalidate-*.tar.gz"), key=os.path.getmtime)) as sdist:
        member = next(name for name in sdist.getnames() if name.endswith(f"/proto/{VALIDATE}"))
        content = sdist.extractfile(member)
        assert content
        target = PROTOS / VALIDATE
        target.parent.mkdir(parents=True)
        target.write_bytes(content.read())


def generate(out: Path, *, with_go: bool) -> None:
    """Makes all outputs below `out`, which is laid out like gen/."""
    image = out / "image.binpb"
    run(BIN / "buf", "build", "--as-file-descriptor-set", "--output", image)
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    ours = [file for file in files if file.name.startswith("openfacility/")]
    names = [file.name for file in ours]
    services = [file.name for file in ours if file.service]

    def protoc(*arguments: str, inputs: Sequence[str]) -> None:
        run(sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={image}", *arguments, *inputs)

    python = out / "python"
    python.mkdir()
    protoc(f"--python_out={python}", f"--pyi_out={python}", inputs=[*names, VALIDATE])
    protoc(
        f"--plugin=protoc-gen-mypy_grpc={BIN / 'protoc-gen-mypy_grpc'}",
        f"--grpc_python_out={python}",
        f"--mypy_grpc_out=quiet:{python}",
        inputs=services,
    )
    package = python / "openfacility"
    for directory in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (directory / "__init__.py").touch()
    # `buf` stays a namespace package, so that it can share the name with others.
    for typed in (package, python / "buf" / "validate"):
        (typed / "py.typed").touch()

    (package / "descriptor.binpb").write_bytes(descriptor(files, {*names, *ALSO_IN_DESCRIPTOR}))
    if with_go:
        make_openapi(out, protoc, ours)
        make_go(out, protoc, ours)
    image.unlink()


def descriptor(files: Sequence[FileDescriptorProto], wanted: set[str]) -> bytes:
    """Serializes the wanted files and all they import, each after what it imports, without comments."""
    kept = []
    for file in reversed(files):  # the image has imports before importers
        if file.name in wanted:
            wanted.update(file.dependency)
            bare = type(file)()
            bare.CopyFrom(file)
            bare.ClearField("source_code_info")
            kept.insert(0, bare)
    return FileDescriptorSet(file=kept).SerializeToString(deterministic=True)


def make_openapi(out: Path, protoc: Callable[..., None], ours: list[FileDescriptorProto]) -> None:
    """Describes the JSON form of the API, as Envoy serves it, in OpenAPI 3."""
    import yaml  # noqa: PLC0415

    target = out / "python" / "openfacility"
    settings = {
        "title": "openfacility",
        "version": "v1",
        "description": "The native API of an openfacility server as JSON over HTTP.",
        "naming": "proto",
        "enum_type": "string",
        "fq_schema_naming": "true",
        "default_response": "true",
    }
    options = ",".join([*(f"{key}={value}" for key, value in settings.items()), *go_packages(ours)])
    protoc(
        f"--plugin=protoc-gen-openapi={BUILD / 'bin' / 'protoc-gen-openapi'}",
        f"--openapi_out={target}",
        f"--openapi_opt={options}",
        inputs=[file.name for file in ours if file.service],
    )
    made = target / "openapi.yaml"
    document = yaml.safe_load(made.read_text())
    made.unlink()

    streaming = {
        f"{service.name}_{method.name}"
        for file in ours
        for service in file.service
        for method in service.method
        if method.server_streaming
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            if operation["operationId"] in streaming:
                answer = operation["responses"]["200"]
                answer["content"] = {NDJSON: answer["content"]["application/json"]}
                answer["description"] = "A stream of messages, one JSON object on each line."
    (target / "openapi.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def make_go(out: Path, protoc: Callable[..., None], ours: list[FileDescriptorProto]) -> None:
    """Makes the Go stubs."""
    target = out / "go"
    target.mkdir()
    options = ",".join([f"module={GO_MODULE}", *go_packages(ours)])
    for plugin, files in (("go", ours), ("go-grpc", [file for file in ours if file.service])):
        protoc(
            f"--plugin=protoc-gen-{plugin}={BUILD / 'bin' / f'protoc-gen-{plugin}'}",
            *(f"--{plugin}_out={target}", f"--{plugin}_opt={options}"),
            inputs=[file.name for file in files],
        )


def go_packages(ours: list[FileDescriptorProto]) -> list[str]:
    """Says where the Go package of each file lives, so that the protos need not."""
    packages = []
    for file in ours:
        _, *parts = Path(file.name).parent.parts  # openfacility/jobs/v1
        packages.append(f"M{file.name}={GO_MODULE}/{'/'.join(parts)};{''.join(parts)}")
    return packages


def listing(root: Path, directories: tuple[str, ...]) -> set[Path]:
    """Names the generated files below `root`."""
    return {
        path.relative_to(root)
        for directory in directories
        for path in (root / directory).rglob("*")
        if path.is_file() and path.name not in KEPT and path.suffix != ".pyc"
    }


def stale(made: Path, directories: tuple[str, ...]) -> list[Path]:
    """Names the files under gen/ that are not as they were just made, or should not be there."""
    fresh, present = listing(made, directories), listing(GEN, directories)
    differing = {path for path in fresh & present if not filecmp.cmp(made / path, GEN / path, shallow=False)}
    return sorted((fresh ^ present) | differing)


def import_all() -> None:
    """Imports every generated module: stubs refuse to load on a runtime that is too old for them."""
    python = GEN / "python"
    sys.path.insert(0, str(python))
    modules = [".".join(path.relative_to(python).with_suffix("").parts) for path in python.rglob("*_pb2*.py")]
    for module in sorted(modules):
        importlib.import_module(module)
    print(f"generate: {len(modules)} generated modules load")


def make_or_check(*, check: bool) -> None:
    """Brings gen/ up to date, or fails when it is not."""
    with_go = shutil.which("go") is not None
    if not with_go:
        print("generate: Go is not installed, so the OpenAPI document and gen/go are left as they are")
        if os.environ.get("CI") == "true":
            sys.exit("generate: CI must have Go")
    directories = DIRECTORIES if with_go else DIRECTORIES[:1]
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="gen-") as temporary:
        made = Path(temporary)
        generate(made, with_go=with_go)
        if not with_go:
            shutil.copyfile(GEN / OPENAPI, made / OPENAPI)
        changed = stale(made, directories)
        if changed and check:
            names = "\n".join(f"  gen/{path}" for path in changed)
            sys.exit(f"gen/ is not what protos/ make; run `make gen`:\n{names}")
        for path in changed:
            (GEN / path).unlink(missing_ok=True)
            if (made / path).exists():
                (GEN / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made / path, GEN / path)
        check_envoy(made / "python/openfacility/descriptor.binpb", check=check)
    print(f"generate: {len(changed)} files changed" if changed else "generate: gen/ is fresh")


def check_envoy(descriptors: Path, *, check: bool) -> None:
    """Makes Envoy's configuration from the descriptor set, or fails when the committed one is another."""
    import envoy  # noqa: PLC0415 (gen/envoy.py)

    text = envoy.render(FileDescriptorSet.FromString(descriptors.read_bytes()))
    committed = ROOT / envoy.OUTPUT
    if not committed.exists() or committed.read_text() != text:
        if check:
            sys.exit(f"{envoy.OUTPUT} is not what protos/ make; run `make gen`")
        committed.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="change nothing; fail if gen/ is not fresh")
    mode.add_argument("--protos-only", action="store_true", help="only collect other people's protos")
    mode.add_argument("--import-all", action="store_true", help="only import every generated Python module")
    arguments = parser.parse_args()
    if arguments.import_all:
        import_all()
    elif arguments.protos_only:
        collect_protos()
    else:
        make_or_check(check=arguments.check)


if __name__ == "__main__":
    main()
