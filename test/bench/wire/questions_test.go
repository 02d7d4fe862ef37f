package wire

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestQuestions(t *testing.T) {
	free, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.LocalAddr().String())
	free.Close()
	load := Load{Target: at, Connections: 2, Duration: 50 * time.Millisecond, Questions: true}
	if r, err := Run(load); err != nil || r.Failed != 2 || r.Error == "" {
		t.Errorf("nobody answers: %+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Answer(ctx, at) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	readable(t, at)
	r, err := Run(load)
	if err != nil || r.Failed > 0 || r.Requests == 0 || r.P50 <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	load.Every = 10 * time.Millisecond
	if r, err := Run(load); err != nil || r.Failed > 0 || r.Requests == 0 || r.Requests > 2*6 {
		t.Errorf("one question each 10 ms for 50 ms, on two sockets: %+v, %v", r, err)
	}
}

// readable waits for the server and looks whether its answer is one, for who reads DNS.
func readable(t *testing.T, at netip.AddrPort) {
	t.Helper()
	message, err := question()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	for range 200 {
		conn, err := net.Dial("udp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(message)
		n, err := conn.Read(buf)
		conn.Close()
		if err != nil {
			time.Sleep(5 * time.Millisecond) // refused: it does not listen yet
			continue
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil || !m.Response || len(m.Answers) != 1 || m.Questions[0].Name.String() != asked {
			t.Errorf("%+v, %v", m, err)
		}
		return
	}
	t.Fatal("the server does not answer")
}
