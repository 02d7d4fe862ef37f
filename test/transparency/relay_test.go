package transparency

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
)

// relay passes connections on, and breaks what it is told to break. It stands for a mesh with a fault.
type relay struct {
	to    string // the server's address
	fault fault
	// For the fault that swaps bytes: where the second client of a pair finds the first one's connection to the server, and the
	// first one the second one's.
	pair  chan chan *net.TCPConn
	count atomic.Int32
}

type fault string

// What a relay does to the bytes that go from the client to the server, or to its end. nothing is a relay without a fault.
const (
	nothing   fault = "passes all on"
	cut       fault = "ends a connection before its last byte"
	dropped   fault = "loses a byte"
	added     fault = "adds a byte at the end"
	twice     fault = "sends 1000 bytes twice in place of the next 1000"
	reordered fault = "sends 1000 bytes after the next 1000"
	flipped   fault = "changes a bit"
	swapped   fault = "sends the bytes of each of two clients to the other's server"
	asReset   fault = "passes an end on as a reset"
	asEnd     fault = "passes a reset on as an end"
)

// change makes what the server gets of what a client sent.
func (f fault) change(b []byte) []byte {
	const n = 1000
	b = slices.Clone(b)
	switch {
	case f == cut && len(b) > 0:
		return b[:len(b)-1]
	case f == dropped && len(b) > 1:
		return slices.Delete(b, len(b)/2, len(b)/2+1)
	case f == added:
		return append(b, 'x')
	case f == twice && len(b) >= 2*n:
		copy(b[n:], b[:n])
	case f == reordered && len(b) >= 2*n:
		return slices.Concat(b[n:2*n], b[:n], b[2*n:])
	case f == flipped && len(b) > 0:
		b[len(b)/2] ^= 1
	}
	return b
}

// serve passes connections on until the listener is closed.
func (r *relay) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go r.pass(c.(*net.TCPConn))
	}
}

// pass takes all that the client sends, and then passes it on: a conversation with a relay is one way at a time.
func (r *relay) pass(client *net.TCPConn) {
	defer client.Close()
	up, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	server := up.(*net.TCPConn)
	defer server.Close()
	sent, end := io.ReadAll(client)
	to := server
	if r.fault == swapped {
		to = r.other(server)
	}
	_, _ = to.Write(r.fault.change(sent))
	if r.fault == asReset || end != nil && r.fault != asEnd {
		_ = to.SetLinger(0)
		_ = to.Close()
		return
	}
	_ = to.CloseWrite()
	_, _ = io.Copy(client, server)
}

// other gives the connection to the server that the other client of a pair has.
func (r *relay) other(own *net.TCPConn) *net.TCPConn {
	mine := make(chan *net.TCPConn, 1)
	mine <- own
	if r.count.Add(1)%2 == 1 {
		r.pair <- mine
		return <-<-r.pair
	}
	theirs := <-r.pair
	r.pair <- mine
	return <-theirs
}

// TestFaultsAreFound plays cases by way of relays that are broken. The comparison with a direct connection must find each fault.
func TestFaultsAreFound(t *testing.T) {
	client, server := startProcess(t, nil), startProcess(t, nil)
	var next atomic.Int32
	play := func(name string, f fault) observed {
		t.Helper()
		// Ports below those that the kernel gives to others.
		port := uint16(20000 + next.Add(1))
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		o := order{Path: string(f), Case: name, To: at, Server: port}
		if f != "" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go (&relay{to: at.String(), fault: f, pair: make(chan chan *net.TCPConn)}).serve(l)
			o.To = l.Addr().(*net.TCPAddr).AddrPort()
		}
		got, err := converse(client, server, o)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	const one, many, reset = "the client closes its direction, then 8 MiB come back", "many to one: 32 uploads of 1 MiB at once", "the client resets on connect"
	for _, x := range []struct {
		fault fault
		name  string
		found bool
	}{
		{nothing, one, false},
		{nothing, many, false},
		{nothing, reset, false},
		{cut, one, true},
		{cut, many, true},
		{dropped, one, true},
		{added, one, true},
		{twice, many, true},
		{reordered, many, true},
		{flipped, one, true},
		{flipped, many, true},
		{swapped, many, true},
		{asReset, one, true},
		{asEnd, reset, true},
	} {
		t.Run(string(x.fault)+"/"+x.name, func(t *testing.T) {
			direct := play(x.name, "")
			if faults := sound(direct); faults != nil {
				t.Fatalf("directly: %q", faults)
			}
			faults := compare([]observed{direct}, play(x.name, x.fault))
			if (faults != nil) != x.found {
				t.Errorf("found: %q", faults)
			}
		})
	}
}
