package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var testSettings = Settings{Socket: "/run/weft/cni.sock", Modes: "/var/lib/weft/namespaces.json", LogFile: "/var/log/weft-cni.log"}

const ourEntry = `{"type":"weft-cni","socket":"/run/weft/cni.sock","modes":"/var/lib/weft/namespaces.json","logFile":"/var/log/weft-cni.log"}`

// typesOf lists the plugins of a configuration.
func typesOf(t *testing.T, name string, text []byte) []string {
	t.Helper()
	l, err := parseConfiguration(name, text)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var out []string
	for _, p := range l.plugins {
		typ, _ := typeOf(p)
		out = append(out, typ)
	}
	return out
}

func TestAddToConfiguration(t *testing.T) {
	for _, test := range []struct {
		name, file, text string
		want             []string // types; nil: not understood
		same             bool
	}{
		{"after the others", "a.conflist", `{"name":"n","plugins":[{"type":"bridge"},{"type":"portmap"}]}`, []string{"bridge", "portmap", Type}, false},
		{"there already", "a.conflist", `{"name":"n","plugins":[{"type":"bridge"},` + ourEntry + `]}`, []string{"bridge", Type}, true},
		{"with another plugin after it", "a.conflist", `{"name":"n","plugins":[{"type":"bridge"},` + ourEntry + `,{"type":"x"}]}`, []string{"bridge", Type, "x"}, true},
		{"with old settings", "a.conflist", `{"name":"n","plugins":[{"type":"bridge"},{"type":"weft-cni","socket":"/old"}]}`, []string{"bridge", Type}, false},
		{"twice", "a.conflist", `{"name":"n","plugins":[{"type":"bridge"},` + ourEntry + `,` + ourEntry + `]}`, []string{"bridge", Type}, false},
		{"first", "a.conflist", `{"name":"n","plugins":[` + ourEntry + `,{"type":"bridge"}]}`, []string{"bridge", Type}, false},
		{"single plugin", "a.conf", `{"cniVersion":"1.0.0","name":"n","type":"bridge","ipam":{"type":"host-local"}}`, []string{"bridge", Type}, false},
		{"single plugin as .json", "a.json", `{"name":"n","type":"bridge"}`, []string{"bridge", Type}, false},
		{"list in a .conf", "a.conf", `{"name":"n","plugins":[{"type":"bridge"}]}`, nil, false},
		{"no plugins", "a.conflist", `{"name":"n","plugins":[]}`, nil, false},
		{"plugins missing", "a.conflist", `{"name":"n"}`, nil, false},
		{"plugins are none", "a.conflist", `{"name":"n","plugins":{"type":"bridge"}}`, nil, false},
		{"plugin without a type", "a.conflist", `{"name":"n","plugins":[{}]}`, nil, false},
		{"null plugin", "a.conflist", `{"name":"n","plugins":[null]}`, nil, false},
		{"half written", "a.conflist", `{"name":"n","plugins":[{"type":"bri`, nil, false},
		{"empty", "a.conflist", ``, nil, false},
		{"null", "a.conf", `null`, nil, false},
		{"null list", "a.conflist", `null`, nil, false},
		{"array", "a.conflist", `[]`, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := parseConfiguration(test.file, []byte(test.text))
			if test.want == nil {
				if err == nil {
					t.Error("taken for a configuration")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			changed, err := l.add(testSettings)
			if err != nil || changed == test.same {
				t.Errorf("changed %v, error %v", changed, err)
			}
			text, err := l.text()
			if err != nil {
				t.Fatal(err)
			}
			if got := typesOf(t, "a.conflist", text); !slices.Equal(got, test.want) {
				t.Errorf("plugins %v, want %v", got, test.want)
			}
			if again, err := parseConfiguration("a.conflist", text); err != nil {
				t.Error(err)
			} else if changed, err := again.add(testSettings); err != nil || changed {
				t.Errorf("a second time it changes: %v %v", changed, err)
			}
		})
	}
}

func TestConfigurationKeepsWhatItDoesNotKnow(t *testing.T) {
	const in = `{"name":"n","cniVersion":"1.0.0","disableCheck":true,"big":12345678901234567890,"plugins":[{"type":"x","n":1.50,"s":"<&>"}]}`
	l, err := parseConfiguration("a.conflist", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.add(testSettings); err != nil {
		t.Fatal(err)
	}
	text, err := l.text()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"disableCheck": true`, `12345678901234567890`, `1.50`, `"cniVersion": "1.0.0"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is lost: %s", want, text)
		}
	}
}

// files makes a folder.
func files(t *testing.T, in map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range in {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const bridge = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}`

func TestFirstConfiguration(t *testing.T) {
	dir := files(t, map[string]string{
		"00-broken.conflist": "{", "05-none.txt": bridge, "10-b.conflist": bridge, "09-a.conf": `{"name":"n","type":"ptp"}`,
		".conf.123.tmp": bridge, "02-list.conf": bridge,
	})
	if err := os.Mkdir(filepath.Join(dir, "01-folder.conflist"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "03-link.conf")); err != nil {
		t.Fatal(err)
	}
	first, bad, err := folder(dir).first()
	if err != nil || first == nil || filepath.Base(first.file) != "09-a.conf" {
		t.Fatalf("%v %v", first, err)
	}
	var names []string
	for _, c := range bad {
		names = append(names, filepath.Base(c.file))
	}
	if want := []string{"00-broken.conflist", "02-list.conf", "03-link.conf"}; !slices.Equal(names, want) {
		t.Errorf("not understood: %v, want %v", names, want)
	}
}

func TestUninstallLeavesWhatWasThere(t *testing.T) {
	single := `{"cniVersion":"1.0.0","name":"n","type":"bridge"}`
	conf := files(t, map[string]string{
		"10-a.conf": single, "20-b.conflist": bridge, "30-c.conflist": `{"name":"n","plugins":[{"type":"bridge"},` + ourEntry + `]}`, "40-d.conflist": "{",
	})
	bin := files(t, map[string]string{Type: "old", "bridge": "x"})
	c := read(filepath.Join(conf, "10-a.conf"))
	if _, err := c.list.add(testSettings); err != nil {
		t.Fatal(err)
	}
	if err := c.put(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, conf); !slices.Equal(got, []string{"10-a.conf.weft", "10-a.conflist", "20-b.conflist", "30-c.conflist", "40-d.conflist"}) {
		t.Errorf("installed: %v", got)
	}
	for range 2 {
		if err := Uninstall(conf, bin); err != nil {
			t.Fatal(err)
		}
		if got := names(t, conf); !slices.Equal(got, []string{"10-a.conf", "20-b.conflist", "30-c.conflist", "40-d.conflist"}) {
			t.Errorf("left: %v", got)
		}
		if got := names(t, bin); !slices.Equal(got, []string{"bridge"}) {
			t.Errorf("plugins left: %v", got)
		}
	}
	if text, _ := os.ReadFile(filepath.Join(conf, "10-a.conf")); string(text) != single {
		t.Errorf("the single plugin's file is %s", text)
	}
	for _, name := range []string{"20-b.conflist", "30-c.conflist"} {
		text, _ := os.ReadFile(filepath.Join(conf, name))
		if got := typesOf(t, name, text); !slices.Equal(got, []string{"bridge"}) {
			t.Errorf("%s: %v", name, got)
		}
		if info, _ := os.Stat(filepath.Join(conf, name)); info.Mode().Perm() != 0o640 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if err := Uninstall(filepath.Join(conf, "missing"), filepath.Join(bin, "missing")); err != nil {
		t.Errorf("nothing there: %v", err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// FuzzConfiguration: what is taken for a configuration stays one, with what was in it, when the plugin goes in and out.
func FuzzConfiguration(f *testing.F) {
	for _, text := range []string{
		bridge, `{"name":"n","type":"bridge"}`, `{"plugins":[` + ourEntry + `]}`, `{"plugins":[{"type":"weft-cni"},{"type":"weft-cni"}]}`,
		`{"name":"n","plugins":[{"type":"bridge","type":"weft-cni"}]}`, `null`, `[]`, `{"plugins":null}`,
	} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, isList bool) {
		name := "a.conf"
		if isList {
			name = "a.conflist"
		}
		l, err := parseConfiguration(name, []byte(text))
		if err != nil {
			return
		}
		others := slices.DeleteFunc(slices.Clone(l.plugins), isOurs)
		if _, err := l.add(testSettings); err != nil {
			t.Fatal(err)
		}
		out, err := l.text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseConfiguration("a.conflist", out)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if changed, err := again.add(testSettings); changed || err != nil {
			t.Fatalf("a second time it changes (%v): %s", err, out)
		}
		if !again.remove() || len(again.plugins) != len(others) {
			t.Fatalf("%d plugins left of %d: %s", len(again.plugins), len(others), out)
		}
		for i := range others {
			if !equal(others[i], again.plugins[i]) {
				t.Fatalf("plugin %d was %s and is %s", i, others[i], again.plugins[i])
			}
		}
	})
}

// FuzzRequest: a request that is taken names a pod by names that cannot lead elsewhere.
func FuzzRequest(f *testing.F) {
	f.Add(`{"namespace":"a","name":"b","uid":"c","containerID":"d","netns":"/run/netns/x","addresses":["10.0.0.1","fd00::1"]}`)
	f.Add(`{"namespace":"a","name":"..","uid":"c","containerID":"d"}`)
	f.Add(`{"addresses":["fe80::1%eth0"]}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := decodeRequest(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, s := range []string{r.Namespace, r.Name, r.UID, r.ContainerID} {
			if s == "" || filepath.Base(s) != s {
				t.Fatalf("%q in %+v", s, r)
			}
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRequest(strings.NewReader(string(again))); err != nil {
			t.Fatalf("%v: %s", err, again)
		}
	})
}
