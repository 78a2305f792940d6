# Passing proves: a libtorrent client downloads a snapshot from a mirror with nothing but its info-hash and its address, and a mirror gets the whole
# snapshot from that client when no other peer has it.

start_all()
dht.wait_for_unit("scenario-dht.service")
producer.wait_for_unit(UNIT)

with subtest("libtorrent leeches from a mirror"):
    late.wait_for_unit(UNIT)
    late.succeed("systemctl stop nano-snapshot-mirror.service nano-snapshot-mirror-{peer,http,control}.socket")
    snapshot = publish(producer)
    published = digest(producer)
    download_with_libtorrent(foreign, snapshot, producer)
    t.assertEqual(digest(foreign, "/srv/data.ldb"), published)

with subtest("the producer is switched off"):
    producer.execute("systemctl poweroff --no-block")
    producer.wait_for_shutdown()

with subtest("libtorrent seeds to a mirror"):
    late.succeed("systemctl start nano-snapshot-mirror-{peer,http,control}.socket nano-snapshot-mirror.service")
    late.wait_for_file(CONTENT)
    t.assertEqual(digest(late), published)
