"""26 hosts with four connections each are interested and request nothing, to use up all connections of the torrent."""

from attacker import HAVE_NONE, INTERESTED, Attacker, Link, host, message

attacker = Attacker()


def behave(link: Link) -> None:
    link.greet()
    link.say(message(HAVE_NONE) + message(INTERESTED), "connections in use")
    attacker.stay(link)


for number in range(26):
    for connection in range(4):
        attacker.hold(host(number), b"-CI0001-%03d-%d" % (number, connection), behave)
attacker.live()
