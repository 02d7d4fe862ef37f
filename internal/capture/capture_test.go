package capture

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	a4, b4 = netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:8080")
	a6, b6 = netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:8080")
)

// frame builds an Ethernet frame with a TCP segment.
func frame(from, to netip.AddrPort, payload string) []byte {
	tcp := make([]byte, tcpMinLen+4, tcpMinLen+4+len(payload)) // 4 bytes of options
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	tcp[12] = (tcpMinLen + 4) / 4 << 4
	tcp = append(tcp, payload...)
	eth := make([]byte, etherLen)
	var ip []byte
	if from.Addr().Is4() {
		binary.BigEndian.PutUint16(eth[12:], etherIPv4)
		ip = make([]byte, ipv4MinLen)
		ip[0], ip[9] = 0x45, protoTCP
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4MinLen+len(tcp)))
		copy(ip[12:], from.Addr().AsSlice())
		copy(ip[16:], to.Addr().AsSlice())
	} else {
		binary.BigEndian.PutUint16(eth[12:], etherIPv6)
		ip = make([]byte, ipv6Len)
		ip[0], ip[6] = 0x60, protoTCP
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], from.Addr().AsSlice())
		copy(ip[24:], to.Addr().AsSlice())
	}
	return append(append(append(eth, ip...), tcp...), "\x00\x00padding"...)
}

func TestParse(t *testing.T) {
	for _, tc := range []struct{ from, to netip.AddrPort }{{a4, b4}, {a6, b6}} {
		f, payload, ok := parse(frame(tc.from, tc.to, "hello"))
		if !ok || f != (Flow{tc.from, tc.to}) || string(payload) != "hello" {
			t.Errorf("%v: %v %q %v", tc.from, f, payload, ok)
		}
	}
	good := frame(a4, b4, "hello")
	for name, change := range map[string]func(p []byte) []byte{
		"UDP":             func(p []byte) []byte { p[etherLen+9] = 17; return p },
		"cut":             func(p []byte) []byte { return p[:etherLen+30] },
		"ARP":             func(p []byte) []byte { p[12], p[13] = 8, 6; return p },
		"data offset 60":  func(p []byte) []byte { p[etherLen+ipv4MinLen+12] = 0xf0; return p },
		"header length 0": func(p []byte) []byte { p[etherLen] = 0x40; return p },
		"version 6":       func(p []byte) []byte { p[etherLen] = 0x65; return p },
		"empty":           func([]byte) []byte { return nil },
	} {
		if _, _, ok := parse(change(append([]byte(nil), good...))); ok {
			t.Errorf("%s: taken for TCP", name)
		}
	}
}

func TestTrafficFindsBytesAcrossPackets(t *testing.T) {
	tr := newTraffic()
	tr.add(frame(a4, b4, "GET /sec"))
	tr.add(frame(b4, a4, "other"))
	tr.add(frame(a4, b4, "ret HTTP"))
	if !tr.Contains("/secret") || tr.Contains("retother") || tr.Packets != 3 {
		t.Error("want the bytes of one flow joined, and not those of two")
	}
	if got := tr.Between(b4.Addr(), a4.Addr()); got[8080] != 21 || len(got) != 1 {
		t.Errorf("%v", got)
	}
	if tr.TLSOnly(a4.Addr(), b4.Addr()) {
		t.Error("plain text taken for TLS")
	}
	tls := newTraffic()
	tls.add(frame(a4, b4, "\x16\x03\x01\x00\x05hello"))
	if !tls.TLSOnly(a4.Addr(), b4.Addr()) || tls.Between(a4.Addr(), b4.Addr())[min(a4.Port(), b4.Port())] != 10 {
		t.Error("TLS not recognised")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(frame(a4, b4, "hello"))
	f.Add(frame(a6, b6, ""))
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, payload, ok := parse(p); ok && len(payload) > len(p)-etherLen-tcpMinLen-ipv4MinLen {
			t.Errorf("payload of %d bytes out of %d", len(payload), len(p))
		}
	})
}

func TestCaptureSeesWhatPassesAVeth(t *testing.T) {
	l := testenv.Lab(t)
	p, q := testenv.Pod(t, l, "a"), testenv.Pod(t, l, "b")
	ln, err := q.Listen("tcp", netip.AddrPortFrom(q.Address, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	c, err := Start(p.HostLink)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := p.Dial(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	marker := "marker" + strings.Repeat("x", 100_000) + "end"
	if _, err := io.WriteString(conn, marker); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len(marker))); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	tr, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if !tr.Contains("marker") || !tr.Contains("end") {
		t.Error("the marker is not in the capture")
	}
	if got := tr.Between(p.Address, q.Address)[8080]; got < 2*len(marker) {
		t.Errorf("%d bytes captured, want at least %d", got, 2*len(marker))
	}
}

func TestStartNamesTheLink(t *testing.T) {
	if _, err := Start("no-such-link"); err == nil || !strings.Contains(err.Error(), "no-such-link") {
		t.Error(err)
	}
}
