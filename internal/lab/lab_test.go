package lab_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/testenv"
)

func TestPodsReachEachOther(t *testing.T) {
	l := testenv.Lab(t)
	a, b := testenv.Pod(t, l, "a"), testenv.Pod(t, l, "b")
	for _, addr := range []netip.Addr{b.Address, b.Address6} {
		ln, err := b.Listen("tcp", netip.AddrPortFrom(addr, 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := ln.Accept()
			if err == nil {
				_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
				_ = c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c, err := a.Dial(ctx, "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		_ = c.Close()
		_ = ln.Close()
		if want := []netip.Addr{a.Address, a.Address6}; err != nil || string(got) != want[0].String() && string(got) != want[1].String() {
			t.Errorf("%s saw client %q (%v), want one of %v", addr, got, err, want)
		}
	}
}

func TestProcessIsInThePodAndEndsWithIt(t *testing.T) {
	l := testenv.Lab(t)
	p := testenv.Pod(t, l, "a")
	cmd := exec.Command("sleep", "60")
	if err := p.Start(cmd); err != nil {
		t.Fatal(err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
	got, _ := os.Readlink(proc + "/ns/net")
	own, _ := os.Readlink("/proc/self/ns/net")
	if got == own || got == "" {
		t.Errorf("process is in namespace %q, the host's is %q", got, own)
	}
	cg, _ := os.ReadFile(proc + "/cgroup")
	if !strings.Contains(string(cg), "0::/"+p.Cgroup+"\n") {
		t.Errorf("process is in cgroups %s, want %s", cg, p.Cgroup)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the process outlived its pod")
	}
	if _, err := os.Stat(p.NetNS); err == nil {
		t.Error("the namespace is still there")
	}
}

func TestNewCleansWhatAKilledOneLeft(t *testing.T) {
	l := testenv.Lab(t)
	testenv.Pod(t, l, "left")
	again, err := lab.New(l.Prefix, netip.PrefixFrom(l.Gateway, 24))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.AddPod("left"); err != nil {
		t.Error(err)
	}
}
