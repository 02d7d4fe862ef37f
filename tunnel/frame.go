package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A session carries frames. A frame has a header of eight bytes: the stream (four bytes), the kind (one byte) and a
// value (three bytes), all big-endian. Of data and open frames, and of kinds that a later version adds from 128 on, the
// value is the length of the payload that follows; others have no payload.
const (
	headerSize = 8
	maxValue   = 1<<24 - 1
	// maxData is the payload of a data frame that fills four TLS records together with its header.
	maxData = 64<<10 - headerSize
	// maxPayload bounds what a peer may send in one frame.
	maxPayload = 64 << 10
)

// kind says what a frame means.
type kind uint8

const (
	kindOpen   kind = iota + 1 // opens a stream: see opening
	kindData                   // bytes of a stream
	kindFin                    // no more bytes come in this direction
	kindReset                  // the stream has ended in both directions; the value is a reason
	kindWindow                 // the sender may send so many bytes more; 0 answers an open frame
	kindPing                   // asks for a pong with the same value
	kindPong
	kindGoAway // opens no more streams here; those that are open live on

	kindOptional kind = 128 // from here on: to be skipped by who does not know it
)

// reason says why a stream was reset. The other end's application sees a reset whatever it is.
type reason uint32

const (
	reasonReset    reason = iota // the application, or its connection, failed
	reasonRefused                // nobody listens at the port
	reasonDenied                 // no policy allows it
	reasonLimit                  // the destination has too many connections
	reasonRequests               // the destination's policy looks at requests
)

func (r reason) String() string {
	switch r {
	case reasonReset:
		return "reset"
	case reasonRefused:
		return "connection refused"
	case reasonDenied:
		return "no policy of the destination allows it"
	case reasonLimit:
		return "the destination has too many connections"
	case reasonRequests:
		return "a policy of the destination looks at requests, and the connection did not come to Envoy"
	}
	return fmt.Sprintf("reset for reason %d", uint32(r))
}

// frame is a header and the payload behind it.
type frame struct {
	stream  uint32
	kind    kind
	value   int
	payload []byte
}

var errProtocol = errors.New("the peer breaks the tunnel's protocol")

func appendHeader(b []byte, stream uint32, k kind, value int) []byte {
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, uint32(k)<<24|uint32(value))
}

// parseFrame reads the frame at the start of b. A size of 0 means that b does not hold all of it yet. Of a data frame, the
// part of the payload that b holds is enough: f.value is the length of all of it.
func parseFrame(b []byte) (f frame, size int, err error) {
	if len(b) < headerSize {
		return frame{}, 0, nil
	}
	v := binary.BigEndian.Uint32(b[4:])
	f = frame{stream: binary.BigEndian.Uint32(b), kind: kind(v >> 24), value: int(v & maxValue)}
	if f.kind == 0 || f.kind > kindGoAway && f.kind < kindOptional {
		return frame{}, 0, fmt.Errorf("%w: a frame of kind %d", errProtocol, f.kind)
	}
	if f.kind != kindOpen && f.kind != kindData && f.kind < kindOptional {
		return f, headerSize, nil
	}
	if f.value > maxPayload {
		return frame{}, 0, fmt.Errorf("%w: a frame of %d bytes", errProtocol, f.value)
	}
	end := headerSize + f.value
	if f.kind == kindData {
		end = min(end, len(b))
	}
	if len(b) < end {
		return frame{}, 0, nil
	}
	f.payload = b[headerSize:end]
	return f, end, nil
}

// opening is the payload of an open frame: two ports of two bytes each, and a byte of flags, which may be missing.
type opening struct {
	port, clientPort uint16
	// connected asks for an answer when the application is connected, and not before. Earlier versions do not know of it.
	connected bool
}

const flagConnected = 1 // of an open frame

// appendOpen appends the frame that opens a stream.
func appendOpen(b []byte, stream uint32, o opening) []byte {
	size := 4
	if o.connected {
		size++
	}
	b = appendHeader(b, stream, kindOpen, size)
	b = binary.BigEndian.AppendUint16(b, o.port)
	b = binary.BigEndian.AppendUint16(b, o.clientPort)
	if o.connected {
		b = append(b, flagConnected)
	}
	return b
}

// parseOpen reads the payload of an open frame. A later version may add to it.
func parseOpen(b []byte) (opening, error) {
	if len(b) < 4 {
		return opening{}, fmt.Errorf("%w: an open frame of %d bytes", errProtocol, len(b))
	}
	return opening{
		port: binary.BigEndian.Uint16(b), clientPort: binary.BigEndian.Uint16(b[2:]), connected: len(b) > 4 && b[4]&flagConnected != 0,
	}, nil
}

func (r reason) Error() string { return r.String() }
