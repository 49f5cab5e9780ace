"""The local Hub under the real client: its repositories, files, revisions, cards and rights."""

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_api_client import CARD, Client, Failure, ask, read_files, start_client, write_model
from tests.support.hub_server import LocalHub

INDEX = """model-index:
- name: cars
  results:
  - task: {type: unconditional-image-generation}
    dataset: {type: cars, name: Toy cars}
    metrics:
    - {type: bits_per_dim, value: 2.5}
"""


@pytest.fixture(scope="module")
def client(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with start_client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def test_the_owner_is_known_by_the_token(hub: LocalHub, client: Client):
    assert client("whoami")["name"] == hub.user
    with pytest.raises(Failure, match="Invalid user token") as refused:
        client("whoami", token="hf_wrong")
    assert refused.value.status == 401


def test_repositories_are_made_once_of_three_kinds_and_deleted(hub: LocalHub, client: Client):
    assert client("create_repo", repo_id="driver/made", private=True) == f"{hub.url}/driver/made"
    assert hub.state.repo("driver/made").private
    with pytest.raises(Failure, match="You already created this model repo") as refused:
        client("create_repo", repo_id="driver/made")
    assert refused.value.status == 409
    assert client("create_repo", repo_id="driver/made", exist_ok=True) == f"{hub.url}/driver/made"
    # Asking again does not show to all what was private.
    assert hub.state.repo("driver/made").private
    assert client("create_repo", repo_id="made", repo_type="dataset") == f"{hub.url}/datasets/driver/made"
    client("create_repo", repo_id="driver/made", repo_type="space", space_sdk="gradio", visibility="public")
    assert not hub.state.repo("driver/made", "dataset").private
    assert hub.state.repo("driver/made", "space").sdk == "gradio"
    assert client("repo_info", repo_id="driver/made", repo_type="space")["sdk"] == "gradio"
    with pytest.raises(Failure, match="You don't have the rights to create other/made") as refused:
        client("create_repo", repo_id="other/made")
    assert refused.value.status == 403
    client("delete_repo", repo_id="driver/made", repo_type="dataset")
    with pytest.raises(Failure) as refused:
        client("repo_info", repo_id="driver/made", repo_type="dataset")
    assert (refused.value.kind, refused.value.status) == ("RepositoryNotFoundError", 404)
    assert client("repo_info", repo_id="driver/made")["private"] is True


def test_a_folder_goes_up_and_every_revision_of_it_comes_down(
    hub: LocalHub, client: Client, folder: Path, tmp_path: Path
):
    client("create_repo", repo_id="driver/cars")
    url = client("upload_folder", repo_id="driver/cars", folder_path=folder, commit_message="First")
    repo, first = hub.state.repo("driver/cars"), read_files(folder)
    assert repo.files == first
    assert [commit.summary for commit in repo.commits] == ["initial commit", "First"]
    assert url == f"{hub.url}/driver/cars/commit/{repo.commits[-1].oid}"
    assert {path for path, blob in repo.commits[-1].blobs.items() if blob.is_lfs} == {"unet/weights.safetensors"}
    assert hub.state.count("PUT", "/lfs-storage/") >= 1

    puts = hub.state.count("PUT", "")
    assert client("upload_folder", repo_id="driver/cars", folder_path=folder) == url
    assert (len(repo.commits), hub.state.count("PUT", "")) == (2, puts)

    (folder / "unet" / "weights.safetensors").write_bytes(os.urandom(60_000))
    (folder / "notes.txt").write_text("second")
    add = ["CommitOperationAdd", {"path_in_repo": "notes.txt", "path_or_fileobj": str(folder / "notes.txt")}]
    delete = ["CommitOperationDelete", {"path_in_repo": "unet/config.json"}]
    client("create_commit", repo_id="driver/cars", operations=[add, delete], commit_message="Second")
    second = {name: data for name, data in first.items() if name != "unet/config.json"} | {"notes.txt": b"second"}
    assert repo.files == second
    client("delete_folder", repo_id="driver/cars", path_in_repo="unet")
    assert repo.files.keys() == {"README.md", "notes.txt"}
    with pytest.raises(Failure, match="A file with this name doesn't exist"):
        client("delete_file", repo_id="driver/cars", path_in_repo="gone")
    assert [commit.summary for commit in repo.commits][2] == "Second"
    titles = [commit["title"] for commit in client("list_repo_commits", repo_id="driver/cars")]
    assert titles == [commit.summary for commit in reversed(repo.commits)]

    for number, expected in ((1, first), (2, second)):
        revision = repo.commits[number].oid
        down = client("snapshot_download", repo_id="driver/cars", revision=revision, cache_dir=tmp_path / str(number))
        assert Path(down).name == revision
        assert read_files(down) == expected
    down = client("snapshot_download", repo_id="driver/cars", cache_dir=tmp_path / "main")
    assert read_files(down) == repo.files
    missing = {"repo_id": "driver/cars", "cache_dir": tmp_path}
    with pytest.raises(Failure) as refused:
        client("hf_hub_download", filename="gone", **missing)
    assert refused.value.kind == "RemoteEntryNotFoundError"
    with pytest.raises(Failure) as refused:
        client("hf_hub_download", filename="README.md", revision="gone", **missing)
    assert refused.value.kind == "RevisionNotFoundError"


def test_listings_tell_sizes_and_hashes(hub: LocalHub, client: Client, folder: Path):
    client("create_repo", repo_id="driver/listed")
    client("upload_folder", repo_id="driver/listed", folder_path=folder, path_in_repo="deep/er")
    weights = (folder / "unet" / "weights.safetensors").read_bytes()
    tree = client("list_repo_tree", repo_id="driver/listed", recursive=True)
    folders = ["deep", "deep/er", "deep/er/unet"]
    files = [f"deep/er/{name}" for name in ("README.md", "unet/config.json", "unet/weights.safetensors")]
    assert [entry["path"] for entry in tree if "size" not in entry] == folders
    assert [entry["path"] for entry in tree if "size" in entry] == [".gitattributes", *files]
    assert tree[-1]["size"] == len(weights)
    assert tree[-1]["lfs"]["sha256"] == hashlib.sha256(weights).hexdigest()
    top = client("list_repo_tree", repo_id="driver/listed", path_in_repo="deep/er")
    assert [entry["path"] for entry in top] == ["deep/er/README.md", "deep/er/unet"]
    infos = client("get_paths_info", repo_id="driver/listed", paths=[files[1], "deep", "gone"])
    assert [info["path"] for info in infos] == [files[1], "deep"]
    siblings = client("repo_info", repo_id="driver/listed", files_metadata=True)["siblings"]
    assert [(file["rfilename"], file["size"]) for file in siblings][-1] == (files[2], len(weights))
    # The hashes are git's: of the text itself, and of the pointer that stands for a large file.
    status, _, pointer = ask(hub, "GET", f"/driver/listed/raw/main/{files[2]}")
    assert status == 200
    assert pointer.startswith(b"version https://git-lfs.github.com/spec/v1\noid sha256:")
    for path, content in ((files[1], b'{"sample_size": 8}'), (files[2], pointer)):
        oid = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        assert [entry["blob_id"] for entry in tree if entry["path"] == path] == [oid]


def test_a_branch_has_commits_of_its_own_and_a_late_author_is_refused(hub: LocalHub, client: Client, folder: Path):
    client("create_repo", repo_id="driver/branched")
    client("create_branch", repo_id="driver/branched", branch="try/this")
    with pytest.raises(Failure, match="already exists") as refused:
        client("create_branch", repo_id="driver/branched", branch="try/this")
    assert refused.value.status == 409
    upload = {"repo_id": "driver/branched", "path_in_repo": "a.txt", "path_or_fileobj": str(folder / "README.md")}
    client("upload_file", revision="try/this", **upload)
    repo = hub.state.repo("driver/branched")
    assert (repo.files, repo.branches["try/this"].files) == ({}, {"a.txt": CARD.encode()})
    branches = client("list_repo_refs", repo_id="driver/branched")["branches"]
    heads = {branch["name"]: branch["target_commit"] for branch in branches}
    assert heads == {"main": repo.commits[0].oid, "try/this": repo.commits[1].oid}
    with pytest.raises(Failure, match="A commit has happened since") as refused:
        client("upload_file", parent_commit=repo.commits[1].oid, **upload)
    assert refused.value.status == 412
    client("upload_file", parent_commit=repo.commits[0].oid, **upload)
    assert repo.files == {"a.txt": CARD.encode()}
    with pytest.raises(Failure, match="Pull requests are not supported") as refused:
        client("upload_file", create_pr=True, **{**upload, "path_in_repo": "b.txt"})
    assert refused.value.status == 400
    with pytest.raises(Failure) as refused:
        client("upload_file", revision="gone", **upload)
    assert refused.value.kind == "RevisionNotFoundError"
    # A commit may be read by its name and not added to.
    with pytest.raises(Failure) as refused:
        client("upload_file", revision=repo.commits[0].oid, **upload)
    assert refused.value.kind == "RevisionNotFoundError"


def test_only_the_owner_writes_and_sees_what_is_private(hub: LocalHub, client: Client, folder: Path, tmp_path: Path):
    upload = {"path_in_repo": "README.md", "path_or_fileobj": str(folder / "README.md")}
    for repo_id, private in (("driver/open", False), ("driver/hidden", True)):
        client("create_repo", repo_id=repo_id, private=private)
        client("upload_file", repo_id=repo_id, **upload)
    download = {"filename": "README.md", "cache_dir": tmp_path}
    assert Path(client("hf_hub_download", repo_id="driver/open", token=False, **download)).read_text() == CARD
    with pytest.raises(Failure) as refused:
        client("hf_hub_download", repo_id="driver/hidden", token=False, **download)
    assert (refused.value.kind, refused.value.status) == ("RepositoryNotFoundError", 401)
    assert Path(client("hf_hub_download", repo_id="driver/hidden", **download)).read_text() == CARD
    for token, kind in ((False, "RepositoryNotFoundError"), ("hf_wrong", "HfHubHTTPError")):
        with pytest.raises(Failure) as refused:
            client("upload_file", repo_id="driver/open", token=token, **{**upload, "path_in_repo": "b.txt"})
        assert (refused.value.kind, refused.value.status) == (kind, 401)
    # Below the client too: each route that changes something asks who it is.
    api = "/api/models/driver/open"
    changes = [("POST", f"{api}/commit/main"), ("POST", f"{api}/preupload/main"), ("POST", f"{api}/branch/b")]
    changes += [("POST", "/driver/open.git/info/lfs/objects/batch"), ("POST", "/api/repos/create")]
    for method, path in [*changes, ("DELETE", "/api/repos/delete")]:
        for headers in ({}, {"Authorization": "Bearer hf_wrong"}):
            assert ask(hub, method, path, {"name": "open"}, **headers)[0] == 401, path
    assert hub.state.repo("driver/open").files == {"README.md": CARD.encode()}


@pytest.mark.parametrize(
    ("metadata", "errors"),
    [
        ("", []),
        ("license: mit\n" + INDEX, []),
        ("license: [mit", ["while parsing a flow sequence"]),
        ("license: [mit]\npipeline_tag: 3", ['"license" must be a string', '"pipeline_tag" must be a string']),
        ("- license", ["metadata must be an object"]),
        ("model-index: {}", ['"model-index" must be an array']),
        ("model-index: [cars]", ['"model-index[0].name" is required', '"model-index[0].results" must be an array']),
        (INDEX.replace("name: Toy cars", ""), ['"model-index[0].results[0].dataset.name" is required']),
        (INDEX.replace("{type: unc", "{name: unc"), ['"model-index[0].results[0].task.type" is required']),
        (INDEX.replace("type: cars", "type: 3"), ['"model-index[0].results[0].dataset.type" must be a string']),
        (INDEX.replace("- {type: bits_per_dim, value: 2.5}", ""), ['"model-index[0].results[0].metrics" must be']),
        (INDEX.replace(", value: 2.5", ""), ['"model-index[0].results[0].metrics[0].value" is required']),
        (INDEX.replace("type: bits_per_dim, ", ""), ['"model-index[0].results[0].metrics[0].type" is required']),
    ],
)
def test_the_metadata_of_a_card_is_read(hub: LocalHub, metadata: str, errors: list[str]):
    content = f"---\n{metadata}\n---\n# Cars\n"
    status, _, body = ask(hub, "POST", "/api/validate-yaml", {"content": content, "repoType": "model"})
    found = json.loads(body)
    assert status == (400 if errors else 200)
    assert len(found["errors"]) == len(errors)
    assert all(error in line["message"] for error, line in zip(errors, found["errors"], strict=True))
    assert bool(found["warnings"]) == (metadata == "")


def test_a_card_with_a_mistake_stops_the_upload(hub: LocalHub, client: Client, folder: Path):
    client("create_repo", repo_id="driver/mistaken")
    (folder / "README.md").write_text(CARD.replace("apache-2.0", "[apache-2.0]"))
    with pytest.raises(Failure, match='"license" must be a string') as refused:
        client("upload_folder", repo_id="driver/mistaken", folder_path=folder)
    assert refused.value.kind == "ValueError"
    assert hub.state.repo("driver/mistaken").files == {}


def test_ranges_and_heads(hub: LocalHub, client: Client, folder: Path):
    client("create_repo", repo_id="driver/ranges")
    client("upload_folder", repo_id="driver/ranges", folder_path=folder)
    data = (folder / "unet" / "weights.safetensors").read_bytes()
    url = "/driver/ranges/resolve/main/unet/weights.safetensors"
    status, headers, body = ask(hub, "HEAD", url)
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(data)))
    assert headers["X-Linked-Etag"] == headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert headers["X-Linked-Size"] == str(len(data))
    assert headers["X-Repo-Commit"] == hub.state.repo("driver/ranges").commits[-1].oid
    for wanted, first, last in (("100-199", 100, 199), ("49990-", 49_990, 49_999), ("49990-60000", 49_990, 49_999)):
        status, headers, body = ask(hub, "GET", url, Range=f"bytes={wanted}")
        assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/50000")
        assert body == data[first : last + 1]
    assert ask(hub, "GET", url, Range="bytes=50000-")[0] == 416
    assert "X-Linked-Etag" not in ask(hub, "HEAD", "/driver/ranges/resolve/main/README.md")[1]


def test_a_file_is_large_by_its_name_its_content_or_its_length(hub: LocalHub, client: Client):
    client("create_repo", repo_id="driver/planned")
    rows = [
        ("a.safetensors", b"text", 4, "lfs"),
        ("a.png", b"\x89PNG\0", 5, "lfs"),
        ("a.txt", b"t", 10_000_001, "lfs"),
    ]
    rows += [("a.txt", b"t", 10_000_001, "lfs")]
    rows += [("b.txt", b"text", 10_000_000, "regular"), ("empty", b"", 0, "regular")]
    files = [{"path": path, "sample": b64encode(data).decode(), "size": size} for path, data, size, _ in rows]
    authorization = {"Authorization": f"Bearer {hub.token}"}
    status, _, body = ask(hub, "POST", "/api/models/driver/planned/preupload/main", {"files": files}, **authorization)
    assert status == 200
    assert [file["uploadMode"] for file in json.loads(body)["files"]] == [mode for *_, mode in rows]


def test_a_large_file_that_is_not_what_was_announced_is_refused(hub: LocalHub):
    oid = hashlib.sha256(b"announced").hexdigest()
    assert ask(hub, "PUT", f"/lfs-storage/{oid}", b"other")[0] == 400
    authorization = {"Authorization": f"Bearer {hub.token}"}
    assert ask(hub, "POST", f"/lfs-storage/{oid}/verify", {"size": 9}, **authorization)[0] == 404
    assert ask(hub, "PUT", f"/lfs-storage/{oid}", b"announced")[0] == 200
    assert ask(hub, "POST", f"/lfs-storage/{oid}/verify", {"size": 9}, **authorization)[0] == 200
    assert hub.state.objects[oid] == b"announced"
