package agent

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Only what can be read again from the file may be let go of.
func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-021ca000 r-xp 00000000 fe:00 10002803                           /opt/weft
Size:              30504 kB
Rss:               27496 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
021ca000-03f00000 r--p 01dca000 fe:00 10002803                           /opt/weft
Size:              30000 kB
Anonymous:             4 kB
03f00000-04000000 rw-p 03b00000 fe:00 10002803                           /opt/weft
Anonymous:             0 kB
04000000-04100000 r--p 03b00000 fe:00 10002804                           /opt/other
Anonymous:             0 kB
04100000-04200000 rw-p 00000000 00:00 0
Anonymous:             0 kB
04200000-04300000 r--p 00000000 fe:00 10002803                           /opt/weft
Anonymous:             0 kB
`
	got, err := cleanMappings(strings.NewReader(smaps), "/opt/weft")
	want := []mapping{{0x400000, 0x21ca000}, {0x4200000, 0x4300000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, %v; want %x", got, err, want)
	}
}

// The process goes on, and holds less of its executable than before.
func TestLetGoOfBinary(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := resident(t, exe)
	if err := letGoOfBinary(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t, exe); after >= before {
		t.Errorf("%d kB of the executable are resident, %d kB were before", after, before)
	}
}

// resident returns how much of the clean mappings of a file this process holds, in kB.
func resident(t *testing.T, file string) (sum int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	mappings, err := cleanMappings(bytes.NewReader(smaps), file)
	if err != nil || len(mappings) == 0 {
		t.Fatalf("mappings of %s: %x, %v", file, mappings, err)
	}
	for _, m := range mappings {
		_, rest, _ := strings.Cut(string(smaps), fmt.Sprintf("%08x-%08x ", m.start, m.end))
		_, rest, _ = strings.Cut(rest, "\nRss:")
		kB := 0
		if _, err := fmt.Sscan(rest, &kB); err != nil {
			t.Fatal(err)
		}
		sum += kB
	}
	return sum
}
