"""Whatever a server does, the file is right or it is not there; and what was got is not got again."""

from __future__ import annotations

import hashlib
import socket

import pytest
from web_server import DATA, chunked, status, whole

from lpcaffe.errors import FileError
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.io.locks import held_folder
from lpcaffe.zoo import fetch_entry

SHA256 = hashlib.sha256(DATA).hexdigest()
BOTH = ["deploy.prototxt", "net.caffemodel"]
HALF = 500_000
AGAIN = (0.0, 0.0)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def part(out):
    return out / "net.caffemodel.part"


def ranges(server):
    return [asked for _, asked in server.asked]


def leave_part(out, data):
    out.mkdir()
    part(out).write_bytes(data)


def failure(get, entry, **options):
    with pytest.raises(FileError) as caught:
        get(entry, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_arrives_whole_under_its_name_and_says_what_was_checked(serve, made_up, get, out):
    server = serve(whole())
    done = get(made_up(server, sha1=hashlib.sha1(DATA).hexdigest()))
    assert done.caffemodel.read_bytes() == DATA
    assert done.prototxt.read_text() == 'name: "made up"\n'
    assert names(out) == BOTH
    assert server.asked == [("/models/net.caffemodel", None)]
    assert (done.downloaded, done.checked, done.complete) == (True, ("size", "sha1", "sha256"), True)
    assert done.to_json()["sha256"] == SHA256
    assert done.to_json()["size"] == len(DATA)


def test_progress_counts_up_to_the_size(serve, made_up, get):
    seen = []
    get(made_up(serve(whole())), progress=lambda *counts: seen.append(counts))
    done = [count for count, _ in seen]
    assert done == sorted(set(done))
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_connection_that_breaks_off_is_taken_up_where_it_ended(serve, made_up, get, out):
    server = serve(whole(cut=HALF), whole(cut=123_456), whole())
    assert get(made_up(server), pauses=(0.0,)).caffemodel.read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={HALF}-", f"bytes={HALF + 123_456}-"]
    assert names(out) == BOTH


def test_a_download_that_was_given_up_goes_on_the_next_time(serve, made_up, get, out):
    server = serve(whole(cut=HALF), whole())
    text = failure(get, made_up(server))
    assert f"broke off after {HALF} of {len(DATA)} bytes" in text
    assert "run it again" in text
    assert names(out) == ["net.caffemodel.part"]
    assert part(out).read_bytes() == DATA[:HALF]
    assert get(made_up(server)).caffemodel.read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={HALF}-"]
    assert names(out) == BOTH


def test_a_link_is_followed_and_the_part_lies_where_it_leads(serve, made_up, get, out, tmp_path):
    (tmp_path / "store").mkdir()
    out.mkdir()
    (out / "net.caffemodel").symlink_to(tmp_path / "store" / "real")
    server = serve(whole(cut=HALF), whole())
    failure(get, made_up(server))
    assert (names(out), names(tmp_path / "store")) == (["net.caffemodel"], ["real.part"])
    assert get(made_up(server)).caffemodel.read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={HALF}-"]
    assert (out / "net.caffemodel").is_symlink()
    assert (names(out), names(tmp_path / "store")) == (BOTH, ["real"])


def test_a_server_that_stalls_is_given_up_after_the_time_given_and_taken_up_again(serve, made_up, get, out):
    server = serve(whole(cut=HALF, hang=True), whole(cut=0, hang=True), whole())
    assert "nothing came for too long" in failure(get, made_up(server), stall=0.2)
    assert names(out) == ["net.caffemodel.part"]
    assert get(made_up(server), stall=0.2, pauses=AGAIN).caffemodel.read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={HALF}-", f"bytes={HALF}-"]


def test_a_server_that_accepts_and_never_answers_is_given_up(serve, made_up, get, out):
    server = serve(lambda handler: handler.server.over.wait(20))
    assert "did not answer: nothing came for too long" in failure(get, made_up(server), stall=0.2)
    assert names(out) == []


def test_tries_that_bring_nothing_end_and_tries_that_bring_something_do_not(serve, made_up, get):
    server = serve(*[whole(cut=50_000)] * 12, whole(cut=0))
    failure(get, made_up(server), pauses=AGAIN)
    assert len(server.asked) == 12 + len(AGAIN)


@pytest.mark.parametrize("lie", [len(DATA) + 1000, len(DATA) - 1000, 3])
def test_a_length_that_is_not_the_known_one_is_refused_before_a_byte_is_written(serve, made_up, get, out, lie):
    text = failure(get, made_up(serve(whole(length=lie))), pauses=AGAIN)
    assert f"expected {len(DATA)} bytes, the server has {lie}" in text
    assert names(out) == []


def test_a_length_that_is_too_long_is_found_out_when_the_size_is_not_known(serve, made_up, get, out):
    server = serve(whole(length=len(DATA) + 1000))
    assert f"broke off after {len(DATA)} of {len(DATA) + 1000} bytes" in failure(get, made_up(server, size=None))
    assert names(out) == ["net.caffemodel.part"]
    # Asked for the rest, the server admits that there is none.
    assert get(made_up(server, size=None)).caffemodel.read_bytes() == DATA


def test_a_length_that_is_too_short_is_found_out_by_the_checksum(serve, made_up, get, out):
    text = failure(get, made_up(serve(whole(length=len(DATA) - 1)), size=None))
    assert f"expected sha256 {SHA256}, got {hashlib.sha256(DATA[:-1]).hexdigest()}" in text
    assert names(out) == []


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_wrong_bytes_are_deleted_and_both_checksums_named(serve, made_up, get, out, algorithm):
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    known = {"sha1": None, "sha256": None, algorithm: hashlib.new(algorithm, DATA).hexdigest()}
    server = serve(whole(wrong), whole())
    text = failure(get, made_up(server, **known), pauses=AGAIN)
    assert f"expected {algorithm} {known[algorithm]}, got {hashlib.new(algorithm, wrong).hexdigest()}" in text
    assert server.url in text
    assert names(out) == []
    assert get(made_up(server, **known)).caffemodel.read_bytes() == DATA


def test_a_server_that_ignores_ranges_begins_the_file_anew(serve, made_up, get, out):
    leave_part(out, DATA[:HALF])
    server = serve(whole(ranges=False))
    assert get(made_up(server)).caffemodel.read_bytes() == DATA
    assert ranges(server) == [f"bytes={HALF}-"]


@pytest.mark.parametrize("lie", [f"bytes 0-{len(DATA) - 1}/{len(DATA)}", f"bytes {HALF + 1}-9/{len(DATA)}", "all"])
def test_a_partial_answer_that_begins_elsewhere_begins_the_file_anew(serve, made_up, get, out, lie):
    leave_part(out, DATA[:HALF])
    server = serve(whole(content_range=lie), whole())
    assert get(made_up(server), pauses=AGAIN).caffemodel.read_bytes() == DATA
    assert ranges(server) == [f"bytes={HALF}-", None]


def test_a_part_of_another_file_is_found_out_deleted_and_then_the_file_is_right(serve, made_up, get, out):
    leave_part(out, b"x" * HALF)
    server = serve(whole())
    assert "what was downloaded is deleted" in failure(get, made_up(server))
    assert names(out) == []
    assert get(made_up(server)).caffemodel.read_bytes() == DATA


@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_part_that_is_whole_already_only_gets_its_name(serve, made_up, get, out, size):
    leave_part(out, DATA)
    server = serve(whole())
    assert get(made_up(server, size=size)).caffemodel.read_bytes() == DATA
    assert ranges(server) == ([] if size else [f"bytes={len(DATA)}-"])


@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_part_that_is_longer_than_the_file_begins_anew(serve, made_up, get, out, size):
    leave_part(out, DATA + b"more")
    server = serve(whole())
    assert get(made_up(server, size=size), pauses=AGAIN).caffemodel.read_bytes() == DATA
    assert ranges(server) == ([None] if size else [f"bytes={len(DATA) + 4}-", None])


@pytest.mark.parametrize("size", [len(DATA), None])
def test_chunks_without_a_length_arrive_and_their_breaking_off_is_noticed(serve, made_up, get, out, size):
    assert "broke off" in failure(get, made_up(serve(chunked(cut=HALF)), size=size))
    assert names(out) == ["net.caffemodel.part"]
    server = serve(chunked())
    assert get(made_up(server, size=size)).caffemodel.read_bytes() == DATA


def test_more_bytes_than_there_are_to_be_are_refused_and_not_kept(serve, made_up, get, out):
    assert "sent more" in failure(get, made_up(serve(chunked(DATA + b"more"))))
    assert names(out) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final_and_says_the_status(serve, made_up, get, out, code):
    server = serve(status(code))
    text = failure(get, made_up(server), pauses=AGAIN)
    assert f"/models/net.caffemodel: the server answered {code} " in text
    assert len(server.asked) == 1
    assert names(out) == []


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(serve, made_up, get, out, code):
    broken = serve(status(code))
    assert f"the server answered {code}" in failure(get, made_up(broken), pauses=AGAIN)
    assert len(broken.asked) == 1 + len(AGAIN)
    assert names(out) == []
    server = serve(status(code), whole())
    assert get(made_up(server), pauses=AGAIN).caffemodel.read_bytes() == DATA


def test_a_failure_in_the_middle_keeps_what_there_is(serve, made_up, get, out):
    server = serve(whole(cut=HALF), status(404))
    failure(get, made_up(server), pauses=AGAIN)
    assert part(out).read_bytes() == DATA[:HALF]


def test_a_redirect_is_followed_range_included(serve, made_up, get, out):
    leave_part(out, DATA[:HALF])
    target = serve(whole())
    server = serve(status(302, Location=f"{target.url}/elsewhere"))
    assert get(made_up(server)).caffemodel.read_bytes() == DATA
    assert target.asked == [("/elsewhere", f"bytes={HALF}-")]


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_out_of_http_is_refused(serve, made_up, get, out, place):
    failure(get, made_up(serve(status(302, Location=place))), pauses=AGAIN)
    assert names(out) == []


def test_a_redirect_in_a_circle_ends(serve, made_up, get, out):
    server = serve(status(302, Location="/models/net.caffemodel"))
    assert "redirect" in failure(get, made_up(server), pauses=AGAIN)
    assert len(server.asked) < 20


def test_no_server_at_all_is_one_line_at_once(made_up, get, out):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/net.caffemodel"
        text = failure(get, made_up(None, url=url), pauses=(60.0,))
    assert text == f"{url}: the server cannot be reached: connection refused"
    assert names(out) == []


def test_the_proxy_of_the_environment_is_asked(serve, made_up, get, monkeypatch):
    proxy = serve(whole())
    monkeypatch.setenv("http_proxy", proxy.url)
    url = "http://no.such.host.invalid/models/net.caffemodel"
    assert get(made_up(None, url=url)).caffemodel.read_bytes() == DATA
    assert proxy.asked == [(url, None)]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_has_the_file_under_its_published_name(serve, made_up, get, slash):
    server, mirror = serve(status(404)), serve(whole())
    done = get(made_up(server), mirror=f"{mirror.url}/caffe/models{slash}")
    assert done.caffemodel.read_bytes() == DATA
    assert done.source == f"{mirror.url}/caffe/models/net.caffemodel"
    assert mirror.asked == [("/caffe/models/net.caffemodel", None)]
    assert server.asked == []


@pytest.mark.parametrize("mirror", ["file:///tmp", "ftp://127.0.0.1", "127.0.0.1/models", "http://", ""])
def test_a_mirror_is_http(serve, made_up, get, out, mirror):
    assert "http:// or https://" in failure(get, made_up(serve(whole())), mirror=mirror)
    assert names(out) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/", "http://[::1/x", "http://a b/"])
def test_an_address_that_makes_no_sense_is_one_line(made_up, get, out, url):
    failure(get, made_up(None, url=url), pauses=(60.0,))
    assert names(out) == []


def test_an_interrupt_leaves_the_part_and_the_next_time_goes_on(serve, made_up, get, out):
    def interrupt(done, total):
        if done > HALF:
            raise KeyboardInterrupt

    server = serve(whole())
    with pytest.raises(KeyboardInterrupt):
        get(made_up(server), progress=interrupt)
    assert names(out) == ["net.caffemodel.part"]
    kept = part(out).stat().st_size
    assert kept > HALF
    assert get(made_up(server)).caffemodel.read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={kept}-"]


def test_a_file_that_is_there_and_right_is_not_asked_for_again(serve, made_up, get, out):
    server = serve(whole())
    get(made_up(server))
    (out / "deploy.prototxt").unlink()
    done = get(made_up(server))
    assert (done.downloaded, done.checked) == (False, ("size", "sha256"))
    assert len(server.asked) == 1
    assert names(out) == BOTH


@pytest.mark.parametrize("name", BOTH)
def test_another_file_in_the_way_is_overwritten_by_force_only(serve, made_up, get, out, name):
    out.mkdir()
    (out / name).write_bytes(b"mine")
    server = serve(whole())
    assert "--force overwrites it" in failure(get, made_up(server))
    assert (out / name).read_bytes() == b"mine"
    assert server.asked == []
    get(made_up(server), force=True)
    assert (out / "net.caffemodel").read_bytes() == DATA
    assert (out / "deploy.prototxt").read_text() == 'name: "made up"\n'


@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_a_file_in_place_of_the_folder_is_one_line_before_anything_is_asked_for(serve, made_up, out, below):
    out.write_text("a file")
    server = serve(whole())
    with pytest.raises(FileError) as caught:
        fetch_entry(made_up(server), out / below)
    assert str(caught.value) == f"{out}: expected a folder for the output, got a file"
    assert server.asked == []


def small(make_net):
    """A network with a caffemodel of its own: prototxt, bytes."""
    net = make_net(
        'input: "x" input_dim: 1 input_dim: 3 input_dim: 5 input_dim: 4 '
        'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 2 } }'
    )
    return net.path


def test_without_a_whole_checksum_the_layers_are_checked_and_the_sha256_told(serve, made_up, get, make_net, tmp_path):
    prototxt = small(make_net)
    data = (tmp_path / "net.caffemodel").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    known = {"size": None, "sha256": None, "prototxt": tmp_path / "net.prototxt"}
    assert str(known["prototxt"]) == prototxt
    done = get(made_up(serve(whole(data)), **known))
    assert (done.checked, done.complete, done.sha256) == (("layers",), False, sha256)
    done = get(made_up(serve(whole(data)), **known, sha256_begins=sha256[:8]))
    assert (done.checked, done.complete) == ((f"sha256 begins {sha256[:8]}", "layers"), False)


@pytest.mark.parametrize("begins", [None, "00000000"])
def test_without_a_whole_checksum_what_cannot_be_right_is_deleted(serve, made_up, get, make_net, tmp_path, out, begins):
    small(make_net)
    page = b"<html><body>404, but politely</body></html>"
    known = {"size": None, "sha256": None, "sha256_begins": begins, "prototxt": tmp_path / "net.prototxt"}
    text = failure(get, made_up(serve(whole(page)), **known))
    assert ("a web page" if begins is None else "begins with 00000000") in text
    assert names(out) == []


def test_a_caffemodel_of_other_layers_is_not_this_network(serve, made_up, get, make_net, tmp_path, out):
    small(make_net)
    data = (tmp_path / "net.caffemodel").read_bytes()
    with open_caffemodel(tmp_path / "net.caffemodel") as model:
        assert list(model.by_name) == ["input", "fc"]
    other = (tmp_path / "net.prototxt").read_text().replace('name: "fc"', 'name: "fc2"')
    (tmp_path / "net.prototxt").write_text(other)
    known = {"size": None, "sha256": None, "prototxt": tmp_path / "net.prototxt"}
    assert 'layer "fc2": expected blobs' in failure(get, made_up(serve(whole(data)), **known))
    assert names(out) == []


def test_a_second_fetch_into_the_same_folder_is_refused_unless_all_is_there(serve, made_up, get, out):
    server = serve(whole())
    with held_folder(out):
        said = failure(get, made_up(server))
    assert said.startswith(f"{out}: another lpcaffe is writing into this folder")
    assert server.asked == []
    get(made_up(server))
    with held_folder(out):
        assert not get(made_up(server)).downloaded
    assert names(out) == BOTH
