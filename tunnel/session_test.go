package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// plain is a session's transport without TLS.
type plain struct{ net.Conn }

func (plain) Flush() error             { return nil }
func (plain) RoundTrip() time.Duration { return 0 }

// pair makes the two sessions of a connection. What is opened on one is connected to an echo of its own by accept.
func pair(t testing.TB, accept func(s *session, id uint32, o opening)) (dialled, accepted *session) {
	t.Helper()
	a, b := tcpPair(t)
	dialled, accepted = newSession(plain{a}, netip.Addr{}), newSession(plain{b}, netip.Addr{})
	accepted.accept = accept
	for _, s := range []*session{dialled, accepted} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.run()
		}()
		t.Cleanup(func() {
			s.end(errClosed)
			<-ended
		})
	}
	return dialled, accepted
}

func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// application makes a connection, and gives the application's end of it and the tunnel's.
func application(t testing.TB) (*net.TCPConn, *socket) {
	t.Helper()
	a, b := tcpPair(t)
	f, err := b.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	b.Close()
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	s, err := newSocket(fd)
	if err != nil {
		t.Fatal(err)
	}
	return a.(*net.TCPConn), s
}

// joined makes two applications' ends of one stream.
func joined(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	server, far := application(t)
	dialled, _ := pair(t, func(s *session, id uint32, o opening) {
		if want := (opening{port: 80, clientPort: 1234}); o != want {
			t.Errorf("%+v", o)
		}
		s.mu.Lock()
		st := newStream(s, id, far)
		s.streams[id] = st
		s.mu.Unlock()
		go st.pump()
	})
	return stream1(t, dialled), server
}

func stream1(t testing.TB, s *session) *net.TCPConn {
	t.Helper()
	client, near := application(t)
	st, err := s.open(near, opening{port: 80, clientPort: 1234})
	if err != nil {
		t.Fatal(err)
	}
	go st.pump()
	for _, c := range []*net.TCPConn{client} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return client
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestBothDirections(t *testing.T) {
	client, server := joined(t)
	up, down := random(9<<20), random(7<<20)
	go func() {
		_, _ = client.Write(up)
		_ = client.CloseWrite()
	}()
	go func() {
		_, _ = server.Write(down)
		_ = server.CloseWrite()
	}()
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(server)
		got <- b
	}()
	b, err := io.ReadAll(client)
	if err != nil || sha256.Sum256(b) != sha256.Sum256(down) {
		t.Errorf("the client got %d bytes, %v", len(b), err)
	}
	if b := <-got; sha256.Sum256(b) != sha256.Sum256(up) {
		t.Errorf("the server got %d bytes", len(b))
	}
}

func TestHalfClosed(t *testing.T) {
	client, server := joined(t)
	_ = client.CloseWrite()
	if b, err := io.ReadAll(server); len(b) > 0 || err != nil {
		t.Fatal(b, err)
	}
	time.Sleep(50 * time.Millisecond)
	want := random(3 << 20)
	go func() {
		_, _ = server.Write(want)
		_ = server.Close()
	}()
	if b, err := io.ReadAll(client); err != nil || !bytes.Equal(b, want) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestReset(t *testing.T) {
	for _, halfClosed := range []bool{false, true} {
		client, server := joined(t)
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if halfClosed {
			_ = server.CloseWrite()
			_, _ = io.ReadAll(client)
		}
		_ = client.SetLinger(0)
		_ = client.Close()
		_ = server.SetDeadline(time.Now().Add(20 * time.Second))
		if b, err := io.ReadAll(server); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("half closed %t: %q, %v", halfClosed, b, err)
		}
	}
}

// A reader that does not read holds up its own stream, and no other.
func TestUnread(t *testing.T) {
	var servers []*net.TCPConn
	found := make(chan *net.TCPConn, 8)
	dialled, _ := pair(t, func(s *session, id uint32, _ opening) {
		server, far := application(t)
		s.mu.Lock()
		st := newStream(s, id, far)
		s.streams[id] = st
		s.mu.Unlock()
		go st.pump()
		found <- server
	})
	for range 4 {
		c := stream1(t, dialled)
		_ = c.SetDeadline(time.Time{})
		server := <-found
		servers = append(servers, server)
		go func() { _, _ = io.Copy(server, neverEnding{}) }()
		go func() { _, _ = io.Copy(c, neverEnding{}) }()
	}
	time.Sleep(200 * time.Millisecond)
	c := stream1(t, dialled)
	server := <-found
	go func() { _, _ = io.Copy(server, server) }()
	for range 50 {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	dialled.mu.Lock()
	for _, st := range dialled.streams {
		if len(st.queue) > maxWindow {
			t.Errorf("a queue of %d bytes", len(st.queue))
		}
	}
	dialled.mu.Unlock()
	_ = servers
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

func TestSessionEnds(t *testing.T) {
	client, server := joined(t)
	_, _ = client.Write([]byte("x"))
	_, _ = io.ReadFull(server, make([]byte, 1))
	dialled, _ := pair(t, nil)
	c := stream1(t, dialled)
	dialled.end(errSilent)
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application saw %v", err)
	}
	if _, err := dialled.open(nil, opening{port: 1, clientPort: 1}); !errors.Is(err, errClosed) {
		t.Errorf("a stream of a session that ended: %v", err)
	}
}

func TestRefused(t *testing.T) {
	dialled, _ := pair(t, func(s *session, id uint32, _ opening) { s.refuse(id, reasonRefused) })
	c := stream1(t, dialled)
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application saw %v", err)
	}
}

func TestPeerBreaksProtocol(t *testing.T) {
	for name, text := range map[string][]byte{
		"an unknown kind":            appendHeader(nil, 1, 9, 0),
		"an empty open":              appendHeader(nil, 1, kindOpen, 0),
		"a stream opened twice":      append(appendOpen(nil, 1, opening{port: 1, clientPort: 1}), appendOpen(nil, 1, opening{port: 1, clientPort: 1})...),
		"a stream number 0":          appendOpen(nil, 0, opening{port: 1, clientPort: 1}),
		"a payload that is too long": appendHeader(nil, 1, kindData, maxPayload+1),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			s := newSession(plain{a}, netip.Addr{})
			s.accept = func(*session, uint32, opening) {}
			_, _ = b.Write(text)
			if err := s.run(); !errors.Is(err, errProtocol) {
				t.Errorf("the session ended with %v", err)
			}
		})
	}
}

// More bytes than the window allows end the session.
func TestPeerIgnoresWindow(t *testing.T) {
	a, b := tcpPair(t)
	s := newSession(plain{a}, netip.Addr{})
	_, far := application(t)
	s.accept = func(s *session, id uint32, _ opening) {
		s.mu.Lock()
		defer s.mu.Unlock()
		st := newStream(s, id, far)
		st.queued = true // as while it is being connected
		s.streams[id] = st
	}
	go func() {
		_, _ = b.Write(appendOpen(nil, 1, opening{port: 1, clientPort: 1}))
		for range firstWindow/maxData + 2 {
			_, _ = b.Write(append(appendHeader(nil, 1, kindData, maxData), make([]byte, maxData)...))
		}
	}()
	if err := s.run(); !errors.Is(err, errProtocol) || !strings.Contains(err.Error(), "not asked for") {
		t.Errorf("the session ended with %v", err)
	}
}

// Frames that a later version adds are skipped, however long.
func TestOptionalFrames(t *testing.T) {
	a, b := tcpPair(t)
	s := newSession(plain{a}, netip.Addr{})
	opened := make(chan uint32, 1)
	s.accept = func(_ *session, id uint32, _ opening) { opened <- id }
	go func() { _ = s.run() }()
	_, _ = b.Write(append(appendHeader(nil, 0, kindOptional+3, maxPayload), make([]byte, maxPayload)...))
	_, _ = b.Write(appendOpen(nil, 7, opening{port: 1, clientPort: 1}))
	select {
	case id := <-opened:
		if id != 7 {
			t.Error(id)
		}
	case <-time.After(20 * time.Second):
		t.Error("the stream was not opened")
	}
	s.end(errClosed)
}

func FuzzFrames(f *testing.F) {
	f.Add(appendOpen(nil, 1, opening{port: 80, clientPort: 1234}))
	f.Add(append(appendHeader(nil, 1, kindData, 3), "abc"...))
	f.Add(appendHeader(nil, 1, kindWindow, maxValue))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			fr, size, err := parseFrame(b)
			if err != nil || size == 0 {
				return
			}
			if size > len(b) || size != headerSize+len(fr.payload) || len(fr.payload) > fr.value {
				t.Fatalf("size %d of %d", size, len(b))
			}
			b = b[size:]
		}
	})
}

// Frames mean the same, however the bytes of them come.
func FuzzPieces(f *testing.F) {
	data := append(appendHeader(nil, 1, kindData, 5), "hello"...)
	f.Add(append(data, appendHeader(nil, 1, kindFin, 0)...), uint8(3))
	f.Add(append(appendHeader(nil, 9, kindOptional, 2), append([]byte("xx"), data...)...), uint8(11))
	f.Add(append(data, appendHeader(nil, 1, 99, 0)...), uint8(1))
	f.Add(data[:len(data)-2], uint8(7))
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		all, end := handleInPieces(t, b, len(b)+1)
		pieces, err := handleInPieces(t, b, int(piece)+1)
		if (err == nil) != (end == nil) || err == nil && pieces != all {
			t.Errorf("at once: %+v, %v; in pieces of %d: %+v, %v", all, end, int(piece)+1, pieces, err)
		}
	})
}

// outcome is what frames did to a stream whose application is being connected.
type outcome struct {
	queue     string
	left      int
	dead, fin bool
	credit    int
	out       string
}

func handleInPieces(t *testing.T, b []byte, size int) (outcome, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(fds[1])
	app, err := newSocket(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer app.close()
	s := newSession(nil, netip.Addr{})
	st := newStream(s, 1, app)
	st.queued = true
	s.streams[1] = st
	var in incoming
	var have []byte
	for len(b) > 0 {
		n := min(size, len(b))
		have, b = append(have, b[:n]...), b[n:]
		used, err := s.handleFrames(&in, have)
		if err != nil {
			return outcome{}, err
		}
		have = have[used:]
	}
	return outcome{string(st.queue), st.left, st.dead, st.gotFin, st.credit, string(s.out)}, nil
}

// The application gets the bytes of a frame before all of it has come.
func TestPartOfFrame(t *testing.T) {
	a, b := tcpPair(t)
	s := newSession(plain{a}, netip.Addr{})
	app, far := application(t)
	st := newStream(s, 1, far)
	s.streams[1] = st
	ended := make(chan error, 1)
	go func() { ended <- s.run() }()
	_, _ = b.Write(append(appendHeader(nil, 1, kindData, 5), "he"...))
	_ = app.SetDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, 5)
	if _, err := io.ReadFull(app, got[:2]); err != nil {
		t.Fatal(err)
	}
	_, _ = b.Write(append([]byte("llo"), appendHeader(nil, 1, kindFin, 0)...))
	if _, err := io.ReadFull(app, got[2:]); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := app.Read(got); !errors.Is(err, io.EOF) {
		t.Errorf("after FIN: %v", err)
	}
	s.end(errClosed)
	<-ended
	far.close()
}

// A window grows while the sender waits for it and the application takes what comes.
func TestWindowGrows(t *testing.T) {
	const half = firstWindow / 2
	for name, tt := range map[string]struct {
		left, held int
		roundTrip  time.Duration
		grows      bool
	}{
		"the peer is far":                              {half, 0, time.Hour, true},
		"the peer is far, the application is slow":     {half, half, time.Hour, false},
		"the sender waits":                             {0, 0, time.Nanosecond, true},
		"the sender has enough":                        {half, 0, time.Nanosecond, false},
		"the application is what the sender waits for": {0, half, time.Nanosecond, false},
	} {
		s := newSession(nil, netip.Addr{})
		st := newStream(s, 1, nil)
		st.left, st.held, st.granted = tt.left, tt.held, time.Now()
		s.roundTrip.Store(int64(tt.roundTrip))
		if st.took(firstWindow/2 - 1) {
			t.Errorf("%s: granted before half of the window was taken", name)
		}
		if !st.took(1) || (st.window > firstWindow) != tt.grows {
			t.Errorf("%s: a window of %d", name, st.window)
		}
		want := firstWindow / 2
		if tt.grows {
			want += firstWindow
		}
		if f, _, err := parseFrame(s.out); err != nil || f.kind != kindWindow || f.value != want || st.left != tt.left+want {
			t.Errorf("%s: granted %+v, %v; want %d", name, f, err, want)
		}
	}
}

// distant is a transport to a peer that is far away.
type distant struct {
	plain
	roundTrip time.Duration
}

func (d distant) RoundTrip() time.Duration { return d.roundTrip }

// A window becomes as large as a far peer needs, though the application takes each byte as soon as it has come.
func TestWindowOfDistantPeer(t *testing.T) {
	const roundTrip = 100 * time.Millisecond
	near, relayNear := tcpPair(t)
	relayFar, far := tcpPair(t)
	go delay(relayFar, relayNear, roundTrip/2)
	go delay(relayNear, relayFar, roundTrip/2)
	server, app := application(t)
	dialled, accepted := newSession(distant{plain{near}, roundTrip}, netip.Addr{}), newSession(distant{plain{far}, roundTrip}, netip.Addr{})
	opened := make(chan *stream, 1)
	accepted.accept = func(s *session, id uint32, _ opening) {
		s.mu.Lock()
		defer s.mu.Unlock()
		st := newStream(s, id, app)
		s.streams[id] = st
		go st.pump()
		opened <- st
	}
	ended := make(chan error, 2)
	for _, s := range []*session{dialled, accepted} {
		go func() { ended <- s.run() }()
		t.Cleanup(func() {
			s.end(errClosed)
			<-ended
		})
	}
	transfer(t, stream1(t, dialled), server, 20*firstWindow)
	st := <-opened
	accepted.mu.Lock()
	defer accepted.mu.Unlock()
	if st.window < 4*firstWindow {
		t.Errorf("after %d bytes the window is %d", st.received, st.window)
	}
}

// delay passes bytes on some time after they have come, a few at once.
func delay(to io.WriteCloser, from io.Reader, by time.Duration) {
	type piece struct {
		at    time.Time
		bytes []byte
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 8<<10)
			n, err := from.Read(b)
			if err != nil {
				return
			}
			pieces <- piece{time.Now().Add(by), b[:n]}
		}
	}()
	defer to.Close()
	for p := range pieces {
		time.Sleep(max(time.Until(p.at), time.Millisecond))
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	for range pieces { // the reader ends with its connection
	}
}

// transfer sends n bytes and a FIN, and compares what comes.
func transfer(t *testing.T, from, to *net.TCPConn, n int) {
	t.Helper()
	want := random(n)
	go func() {
		_, _ = from.Write(want)
		_ = from.CloseWrite()
	}()
	_ = to.SetDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", len(got), n, err)
	}
}

// Small messages that wait to be sent do not keep a large one away, and it bounds what waits.
func TestRoomForLargeStep(t *testing.T) {
	s := newSession(nil, netip.Addr{})
	st := newStream(s, 1, nil)
	s.streams[1] = st
	s.out = make([]byte, outRoom)
	if !st.putData(make([]byte, readSize)) {
		t.Fatal("the stream has ended")
	}
	full := len(s.out)
	if full < outRoom+readSize || full > 2*outLimit {
		t.Errorf("%d bytes wait", full)
	}
	put := make(chan bool)
	go func() { put <- st.putData([]byte("x")) }()
	select {
	case <-put:
		t.Error("more is put where too much waits")
	case <-time.After(20 * time.Millisecond):
		s.mu.Lock()
		s.out = s.out[:0]
		s.room.Broadcast()
		s.mu.Unlock()
		if !<-put {
			t.Error("the stream has ended")
		}
	}
}

// A stream for which there is no memory left is reset, and gives back what it held.
func TestMemoryIsBounded(t *testing.T) {
	server, far := application(t)
	dialled, accepted := pair(t, func(s *session, id uint32, _ opening) {
		s.mu.Lock()
		defer s.mu.Unlock()
		st := newStream(s, id, far)
		st.queued = true // as while it is being connected
		s.streams[id] = st
		go st.pump()
	})
	accepted.memory.queues.pool.most = 20_000
	c := stream1(t, dialled)
	_, _ = c.Write(random(10_000))
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("what fits is not kept: %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the sender saw %v", err)
	}
	_ = server.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the receiver saw %v", err)
	}
	if n := accepted.memory.queues.used.Load(); n != 0 {
		t.Errorf("%d bytes are still reserved", n)
	}
}
