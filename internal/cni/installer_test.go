package cni

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/state"
)

// logBuffer is a log that tests read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// installation is a node's folders.
type installation struct {
	t         *testing.T
	conf, bin string
	self      string
	log       logBuffer
}

func newInstallation(t *testing.T, in map[string]string) *installation {
	i := &installation{t: t, conf: files(t, in), bin: t.TempDir(), self: filepath.Join(t.TempDir(), "weft")}
	i.write(i.self, "the binary")
	return i
}

func (i *installation) installer() *Installer {
	return NewInstaller(InstallerConfig{
		ConfDir: i.conf, BinDir: i.bin, Self: i.self, Settings: testSettings, State: state.New(state.NewDB()),
		Log: slog.New(slog.NewTextHandler(&i.log, nil)),
	})
}

// run starts an installer and gives what ends it.
func (i *installation) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.installer().Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			i.t.Error(err)
		}
	})
	i.t.Cleanup(stop)
	return stop
}

func (i *installation) write(file, text string) {
	i.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		i.t.Fatal(err)
	}
}

// holds waits until a configuration has these plugins.
func (i *installation) holds(name string, want ...string) {
	i.t.Helper()
	var got string
	for range 500 {
		text, _ := os.ReadFile(filepath.Join(i.conf, name))
		if l, err := parseConfiguration(name, text); err == nil {
			var types []string
			for _, p := range l.plugins {
				typ, _ := typeOf(p)
				types = append(types, typ)
			}
			if slices.Equal(types, want) {
				return
			}
		}
		got = string(text)
		time.Sleep(10 * time.Millisecond)
	}
	i.t.Fatalf("%s is\n%s\nwant plugins %v\n%s", name, got, want, i.log.String())
}

// gone waits until a file is moved away.
func (i *installation) gone(name string) {
	i.t.Helper()
	for range 500 {
		if _, err := os.Stat(filepath.Join(i.conf, name)); os.IsNotExist(err) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	i.t.Fatalf("%s is still there\n%s", name, i.log.String())
}

func TestInstallerKeepsThePluginIn(t *testing.T) {
	i := newInstallation(t, nil)
	stop := i.run()
	i.write(filepath.Join(i.conf, "10-a.conflist"), bridge) // the first installer comes after us
	i.holds("10-a.conflist", "bridge", Type)

	i.write(filepath.Join(i.conf, "10-a.conflist"), `{"name":"n","plugins":[{"type":"ptp"}]}`) // and rewrites it
	i.holds("10-a.conflist", "ptp", Type)

	i.write(filepath.Join(i.conf, "05-b.conf"), `{"name":"m","type":"ipvlan"}`) // another one adds an earlier one
	i.holds("05-b.conflist", "ipvlan", Type)
	i.gone("05-b.conf") // else the file of the single plugin is before the list

	i.write(filepath.Join(i.conf, "00-bad.conflist"), "{")
	i.write(i.bin+"/"+Type, "broken")
	for range 500 {
		if text, _ := os.ReadFile(filepath.Join(i.bin, Type)); string(text) == "the binary" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if info, err := os.Stat(filepath.Join(i.bin, Type)); err != nil || info.Mode().Perm() != 0o755 || info.Size() != int64(len("the binary")) {
		t.Errorf("binary: %v %v", info, err)
	}
	stop()
	i.holds("05-b.conflist", "ipvlan", Type) // pods must not start outside the mesh when the agent ends
	if text, _ := os.ReadFile(filepath.Join(i.conf, "00-bad.conflist")); string(text) != "{" {
		t.Errorf("what is not understood was changed: %s", text)
	}
	if log := i.log.String(); !strings.Contains(log, "00-bad.conflist") || !strings.Contains(log, "no network configuration") {
		t.Errorf("log: %s", log)
	}
}

func TestInstallerIsPatientWithOthers(t *testing.T) {
	i := newInstallation(t, map[string]string{"10-a.conflist": bridge})
	in := i.installer()
	now := time.Unix(1_000_000, 0)
	file := filepath.Join(i.conf, "10-a.conflist")
	puts := 0
	for range 3600 { // an hour in which another installer takes the plugin out every second
		in.look(now)
		if text, _ := os.ReadFile(file); strings.Contains(string(text), Type) {
			puts++
			i.write(file, bridge)
		}
		now = now.Add(time.Second)
	}
	if puts < 50 || puts > 80 {
		t.Errorf("put in %d times in an hour, want about once a minute", puts)
	}
	if !strings.Contains(i.log.String(), "another installer") {
		t.Errorf("log: %s", i.log.String())
	}
	in.look(now)
	if in.look(now.Add(2*quiet)) != 0 {
		t.Error("not put in")
	}
	in.look(now.Add(4 * quiet))
	if in.pause != putBackFirst {
		t.Errorf("after a quiet time the pause is still %v", in.pause)
	}
}

func TestInstallerWithoutBinaryLeavesTheNetworkAlone(t *testing.T) {
	i := newInstallation(t, map[string]string{"10-a.conflist": bridge})
	if err := os.Remove(i.self); err != nil {
		t.Fatal(err)
	}
	if wait := i.installer().look(time.Now()); wait != putBackFirst {
		t.Errorf("looks again after %v", wait)
	}
	if text, _ := os.ReadFile(filepath.Join(i.conf, "10-a.conflist")); string(text) != bridge {
		t.Errorf("a plugin that is not there was put in: %s", text)
	}
}

func TestInstallerTellsOnce(t *testing.T) {
	i := newInstallation(t, map[string]string{"00-a.conflist": "{", "10-a.conflist": bridge})
	in := i.installer()
	for n := range 5 {
		in.look(time.Unix(int64(n), 0))
	}
	if n := strings.Count(i.log.String(), "00-a.conflist"); n != 1 {
		t.Errorf("told %d times:\n%s", n, i.log.String())
	}
}

func TestPauseUntilIsBounded(t *testing.T) {
	changes := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case changes <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	if !pauseUntil(ctx, changes, time.Hour) {
		t.Error("it ended")
	}
	cancel()
	<-done
	if pauseUntil(ctx, changes, time.Hour) {
		t.Error("it goes on after its end")
	}
}

func TestWriteModesReplacesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "namespaces.json")
	for n := range 3 {
		want := Modes{fmt.Sprint("ns", n): {Label: n == 1, Pod: n == 2}}
		if err := WriteModes(file, want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadModes(file)
		if err != nil || len(got) != 1 || got[fmt.Sprint("ns", n)] != want[fmt.Sprint("ns", n)] {
			t.Errorf("%v %v", got, err)
		}
	}
	if got := names(t, filepath.Dir(file)); len(got) != 1 {
		t.Errorf("left over: %v", got)
	}
	if err := WriteModes(filepath.Join(file, "x"), nil); err == nil {
		t.Error("no error for a folder that is none")
	}
}

// TestInstallerReports looks at the row: who shows it holds no lock of the installer.
func TestInstallerReports(t *testing.T) {
	i := newInstallation(t, map[string]string{"00-bad.conflist": "{"})
	in := i.installer()
	good := filepath.Join(i.conf, "10-net.conflist")
	remove := func(file string) {
		t.Helper()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name     string
		do       func()
		file     string
		problems []string
	}{
		{"without a configuration", func() {}, "", []string{"it is no network configuration", "no network configuration in"}},
		{"in place", func() { i.write(good, `{"name": "n", "plugins": [{"type": "bridge"}]}`) }, good, []string{"it is no network configuration"}},
		{"the bad one is gone", func() { remove(filepath.Join(i.conf, "00-bad.conflist")) }, good, nil},
		{"without a binary", func() { remove(i.self); remove(filepath.Join(i.bin, Type)) }, good, []string{"weft"}},
	} {
		before, _ := in.cfg.State.CNI.Get(in.cfg.State.Snapshot(), "plugin")
		if before == nil {
			t.Fatal("there is no row before the first look")
		}
		step.do()
		in.look(time.Now())
		row, _ := in.cfg.State.CNI.Get(in.cfg.State.Snapshot(), "plugin")
		ok := row.File == step.file && len(row.Problems) == len(step.problems)
		for n := 0; ok && n < len(step.problems); n++ {
			ok = strings.Contains(row.Problems[n], step.problems[n])
		}
		if !ok {
			t.Errorf("%s: %+v, want file %q and problems %q", step.name, row, step.file, step.problems)
		}
	}
}
