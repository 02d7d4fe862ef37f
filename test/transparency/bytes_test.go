package transparency

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
)

// Each end of a connection sends a stream of pseudo-random bytes that no other stream of the test has. The receiver knows
// what comes at each place, so it finds a byte that is lost, repeated, out of order or another connection's.

// nameSize is how many bytes of a stream's beginning name its connection.
const nameSize = 8

// mostConnections bounds the numbers that connections of a case have.
const mostConnections = 2048

// newStream gives what one end of a connection sends. Connections have numbers in the order in which the client makes them.
func newStream(o order, number int, client bool) io.Reader {
	return rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%t", o.Path, o.Case, number, client)))
}

// begins holds, by path, case and sender, which connection's stream begins with which bytes.
var begins = struct {
	sync.Mutex
	of map[string]map[[nameSize]byte]int
}{of: map[string]map[[nameSize]byte]int{}}

// named finds the connection of a case whose stream begins with some bytes, -1 for none.
func named(o order, client bool, head []byte) int {
	if len(head) < nameSize {
		return -1
	}
	begins.Lock()
	defer begins.Unlock()
	key := fmt.Sprintf("%s\x00%s\x00%t", o.Path, o.Case, client)
	numbers := begins.of[key]
	if numbers == nil {
		numbers = map[[nameSize]byte]int{}
		for n := range mostConnections {
			var b [nameSize]byte
			_, _ = io.ReadFull(newStream(o, n, client), b[:])
			numbers[b] = n
		}
		begins.of[key] = numbers
	}
	if n, ok := numbers[[nameSize]byte(head)]; ok {
		return n
	}
	return -1
}

// unnamed is the number of a connection that an end accepted and has not read from: its peer says which it is.
const unnamed = -1

// conn is an end's socket of a connection.
type conn struct {
	order
	fd       int
	number   int
	sends    io.Reader // what this end sends from here on
	receives io.Reader // what the other end sends
	head     []byte    // first bytes of an unnamed connection
	at       int       // how many bytes were received
	wrong    string    // the first byte that was not as sent
	want     []byte    // room for take
}

func newConn(o order, fd, number int) *conn {
	c := &conn{order: o, fd: fd, number: unnamed}
	if number != unnamed {
		c.name(number)
	}
	return c
}

func (c *conn) name(number int) {
	c.number = number
	c.sends, c.receives = newStream(c.order, number, c.Client), newStream(c.order, number, !c.Client)
}

// next gives the next n bytes that this end sends.
func (c *conn) next(n int) []byte {
	b := make([]byte, n)
	c.fill(b)
	return b
}

func (c *conn) fill(b []byte) {
	if _, err := io.ReadFull(c.sends, b); err != nil {
		panic(err) // a case sends more than it said
	}
}

// take compares bytes that were received with those that are due.
func (c *conn) take(b []byte) {
	if c.number == unnamed {
		c.head = append(c.head, b...)
		if len(c.head) < nameSize {
			return
		}
		number := named(c.order, !c.Client, c.head[:nameSize])
		if number < 0 {
			c.blame("%d bytes that begin no connection", len(c.head))
			number = 0
		}
		c.name(number)
		b, c.head = c.head, nil
	}
	c.want = slices.Grow(c.want[:0], len(b))[:len(b)]
	n, _ := io.ReadFull(c.receives, c.want)
	want := c.want[:n]
	switch i := differs(b, want); {
	case i < 0:
	case i == len(want):
		c.blame("byte %d and more, which nobody sent", c.at+i)
	default:
		if n := named(c.order, !c.Client, b[i:min(len(b), i+nameSize)]); n >= 0 {
			c.blame("byte %d begins connection %d, and this is %d", c.at+i, n, c.number)
		} else {
			c.blame("byte %d is not as sent", c.at+i)
		}
	}
	c.at += len(b)
}

func (c *conn) blame(format string, args ...any) {
	if c.wrong == "" {
		c.wrong = fmt.Sprintf(format, args...)
	}
}

// verdict says how what was received differs from what was sent, "" if it does not.
func (c *conn) verdict() string {
	if c.wrong == "" && len(c.head) > 0 {
		c.blame("%d bytes are too few to name the connection", len(c.head))
	}
	if c.wrong == "" {
		return ""
	}
	return ", but " + c.wrong
}

// differs gives the first place where a and b differ, -1 for none.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
