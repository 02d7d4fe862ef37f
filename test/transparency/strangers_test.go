package transparency

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/tunnel"
)

// strangers: a process of the host connects to weft tunnel with the header that Envoy sends.
func strangers(t *testing.T, n *sandbox.Node) {
	text, err := os.ReadFile(filepath.Join(n.RunDir, tunnel.GatewayPortFile))
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort("127.1.2.3", string(text))
	server := n.Pod(strict, "s")
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4321}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
	if err := h.SetTLVs([]proxyproto.TLV{
		{Type: model.ProxyOwner, Value: []byte("gateway/strict/g4-0")},
		{Type: model.ProxyIdentity, Value: []byte("spiffe://cluster.local/ns/strict/sa/g4-0")},
		{Type: model.ProxyDestination, Value: []byte(netip.AddrPortFrom(server.Address, firstPort).String())},
	}); err != nil {
		t.Fatal(err)
	}
	header, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	for name, sent := range map[string][]byte{"a header": header, "nothing": nil, "bytes": []byte("GET / HTTP/1.1\r\n\r\n")} {
		if err := say(at, sent); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
}

// say connects, sends, and reads to the end.
func say(at string, b []byte) error {
	c, err := net.DialTimeout("tcp", at, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	// A write of no bytes takes a reset too, and the read after it sees the end.
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadAll(c)
	return err
}
