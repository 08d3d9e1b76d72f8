package serve

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Limits of connections at once, over all ports. Half of the files that the process may open are left to database, agents and the rest.
const (
	mostConnections  = 16_384
	leastConnections = 256
)

// connectionLimit is how many connections are kept at once.
func connectionLimit() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return leastConnections
	}
	return int(min(max(files.Cur/2, leastConnections), mostConnections))
}

// connections keeps the number of connections within a limit. When they are at it, a new one takes the place of one of the address that has most, so
// that whoever opens many keeps nobody out; who has as many as any is turned away. It trusts no address: they only share the places out.
type connections struct {
	limit int
	log   *slog.Logger

	mu     sync.Mutex
	next   uint64
	open   map[netip.Prefix]map[*connection]struct{}
	all    int
	warned time.Time
}

// warnEvery is how often the log says that the limit is reached.
const warnEvery = time.Minute

func newConnections(limit int, log *slog.Logger) *connections {
	return &connections{limit: limit, log: log, open: map[netip.Prefix]map[*connection]struct{}{}}
}

// connection is one that counts until it is closed.
type connection struct {
	net.Conn
	of     *connections
	from   netip.Prefix
	number uint64
}

// Close closes it and frees its place, once.
func (c *connection) Close() error {
	c.of.remove(c)
	return c.Conn.Close()
}

// listener limits what a listener accepts.
func (c *connections) listener(l net.Listener) net.Listener { return &limitedListener{l, c} }

type limitedListener struct {
	net.Listener
	limit *connections
}

// Accept returns the next connection that has a place.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if kept := l.limit.add(accepted); kept != nil {
			return kept, nil
		}
		accepted.Close() // it says nothing, for whoever holds that many connections reads nothing
	}
}

// add counts a connection, or returns nil when there is no place for it.
func (c *connections) add(accepted net.Conn) *connection {
	added := &connection{Conn: accepted, of: c, from: prefixOf(accepted.RemoteAddr())}
	c.mu.Lock()
	var displaced *connection
	if c.all >= c.limit {
		c.warn(added.from)
		if displaced = c.crowded(added.from); displaced == nil {
			c.mu.Unlock()
			return nil
		}
		c.drop(displaced)
	}
	c.next++
	added.number = c.next
	if c.open[added.from] == nil {
		c.open[added.from] = map[*connection]struct{}{}
	}
	c.open[added.from][added] = struct{}{}
	c.all++
	c.mu.Unlock()
	if displaced != nil {
		displaced.Conn.Close()
	}
	return added
}

func (c *connections) warn(from netip.Prefix) {
	if now := time.Now(); now.Sub(c.warned) >= warnEvery {
		c.warned = now
		c.log.Warn("as many connections are open as are kept at once; who has most loses one to each new address", "limit", c.limit, "addresses", len(c.open), "peer", from)
	}
}

// crowded returns the oldest connection of the address that has most of them, nil where none has more than the given one.
func (c *connections) crowded(from netip.Prefix) (oldest *connection) {
	most := from
	for address, open := range c.open {
		if len(open) > len(c.open[most]) {
			most = address
		}
	}
	if most == from {
		return nil
	}
	for open := range c.open[most] {
		if oldest == nil || open.number < oldest.number {
			oldest = open
		}
	}
	return oldest
}

func (c *connections) remove(gone *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(gone)
}

// drop uncounts a connection; doing it again does nothing.
func (c *connections) drop(gone *connection) {
	open := c.open[gone.from]
	if _, counted := open[gone]; !counted {
		return
	}
	delete(open, gone)
	c.all--
	if len(open) == 0 {
		delete(c.open, gone.from)
	}
}

// prefixOf is whom a connection counts for: an IPv4 address, or the /64 of an IPv6 one, all of which one machine can use.
func prefixOf(remote net.Addr) netip.Prefix {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	length := 32
	if address.Is6() {
		length = 64
	}
	prefix, _ := address.Prefix(length) // both lengths are possible
	return prefix
}
