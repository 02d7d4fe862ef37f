package tunnel

import (
	"bytes"
	"io"
	"testing"
	"time"
)

func TestOpenFrame(t *testing.T) {
	for _, want := range []opening{{port: 80, clientPort: 1234}, {port: 80, clientPort: 1234, connected: true}} {
		f, size, err := parseFrame(appendOpen(nil, 7, want))
		if err != nil || size == 0 || f.stream != 7 {
			t.Fatalf("%+v, %d bytes, %v", f, size, err)
		}
		for _, later := range [][]byte{nil, {1, 2, 3}} { // what a later version adds
			if got, err := parseOpen(append(bytes.Clone(f.payload), later...)); later == nil && got != want || err != nil {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
		}
	}
}

// TestTentative: nothing of a connection is sent before its stream is answered, and all of it goes to the next one where it is not.
func TestTentative(t *testing.T) {
	client, near := application(t)
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	sent := random(1 << 20)
	go func() {
		_, _ = client.Write(sent)
		_ = client.CloseWrite()
	}()
	for name, accept := range map[string]func(s *session, id uint32, o opening){
		"refused": func(s *session, id uint32, _ opening) { s.refuse(id, reasonRefused) },
		"ended":   func(s *session, _ uint32, _ opening) { go s.end(errClosed) },
		"silent":  func(*session, uint32, opening) {},
	} {
		dialled, _ := pair(t, accept)
		st, err := dialled.open(near, opening{port: 80, clientPort: 1, connected: true})
		if err != nil {
			t.Fatal(err)
		}
		if name == "silent" {
			time.AfterFunc(10*time.Millisecond, st.withdraw)
		}
		if st.awaitAnswer() {
			t.Errorf("%s: it was taken", name)
		}
		if n, _, _ := dialled.state(); n != 0 || dialled.isOpening() {
			t.Errorf("%s: the session has %d streams", name, n)
		}
	}
	got := make(chan []byte, 1)
	dialled, _ := pair(t, func(s *session, id uint32, o opening) {
		if !o.connected {
			t.Error("no answer is asked for")
		}
		server, far := application(t)
		s.mu.Lock()
		st := newStream(s, id, far)
		s.streams[id] = st
		s.put(id, kindWindow, 0)
		s.tell()
		s.mu.Unlock()
		go st.pump()
		go func() {
			_ = server.CloseWrite()
			b, _ := io.ReadAll(server)
			got <- b
		}()
	})
	st, err := dialled.open(near, opening{port: 80, clientPort: 1, connected: true})
	if err != nil {
		t.Fatal(err)
	}
	if !st.awaitAnswer() {
		t.Fatal("it was not taken")
	}
	st.pump()
	if !bytes.Equal(<-got, sent) {
		t.Error("the bytes are not the same")
	}
}
