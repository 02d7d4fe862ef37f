package attack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// streamsSpec opens streams in one session of weft tunnel, and sends bytes on each that nobody asked to be read.
type streamsSpec struct {
	sessionsSpec
	Port    uint16
	Streams int
	Bytes   int // of each
}

func openStreams(s streamsSpec) (r report, err error) {
	cert, err := s.certificate()
	if err != nil {
		return r, err
	}
	c, err := s.session(cert)
	if err != nil {
		return r, err
	}
	resets := make(chan int, 1)
	go func() { resets <- countResets(c) }()
	data := make([]byte, min(s.Bytes, 60<<10))
	for i := range s.Streams {
		b := appendFrame(nil, uint32(i+1), 1, 4)
		b = binary.BigEndian.AppendUint16(b, s.Port)
		b = binary.BigEndian.AppendUint16(b, uint16(1024+i))
		if len(data) > 0 {
			b = append(appendFrame(b, uint32(i+1), 2, len(data)), data...)
		}
		if _, err := c.Write(b); err != nil {
			r.Errors = append(r.Errors, err.Error())
			break
		}
		r.Done++
	}
	time.Sleep(s.Hold)
	_ = c.SetReadDeadline(time.Now())
	r.Refused = <-resets
	r.Done -= r.Refused
	return r, nil
}

// countResets counts the streams that the other end resets.
func countResets(c io.Reader) (n int) {
	header := make([]byte, 8)
	for {
		if _, err := io.ReadFull(c, header); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return n
			}
			return n
		}
		if header[4] == 4 {
			n++
		}
		if k := header[4]; k == 2 {
			if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(header[4:])&0xffffff)); err != nil {
				return n
			}
		}
	}
}

// manyStreams: one peer's streams leave room for those of others at the same pod.
func manyStreams(t *testing.T, a *arena) string {
	spec := streamsSpec{
		sessionsSpec: sessionsSpec{
			To: netip.AddrPortFrom(a.server.Address, model.PortTunnel), Certificate: a.stolen(t), Hold: 4 * time.Second,
		},
		Port: 8080, Streams: 12_000,
	}
	var r report
	noticed := a.under(t, func() { r = from(t, a.outsider, "streams", spec).wait() }, nil)
	if r.Refused == 0 {
		t.Errorf("one peer has %d streams", r.Done)
	}
	return fmt.Sprintf("%d streams, %d refused; %s", r.Done, r.Refused, noticed)
}

// slowReaders: what waits for applications that do not read is cut where it is waited for, and not at a neighbour.
func slowReaders(t *testing.T, a *arena) string {
	l, err := a.accomplice.Listen("tcp", ":9999")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nothing is accepted, so nothing is read
	spec := streamsSpec{
		sessionsSpec: sessionsSpec{
			To: netip.AddrPortFrom(a.accomplice.Address, model.PortTunnel), Certificate: a.stolen(t), Hold: 4 * time.Second,
		},
		Port: 9999, Streams: 9000, Bytes: 60 << 10,
	}
	var r report
	var tunnel int
	noticed := a.under(t, func() {
		r = from(t, a.outsider, "streams", spec).wait()
		_, tunnel = a.memory(t)
	}, nil)
	if tunnel > tunnelMemory {
		t.Errorf("weft tunnel holds %d MB", tunnel)
	}
	return fmt.Sprintf("%d streams, %d cut; weft tunnel %d MB; %s", r.Done, r.Refused, tunnel, noticed)
}
