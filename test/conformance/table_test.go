package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// table counts results as the suite's report does, and those of tests that no profile counts, which the report leaves out.
type table struct {
	mu   sync.Mutex
	rows map[string]*row
}

// row holds names of tests. Those that were skipped need a feature that is not declared, or were not asked for.
type row struct{ passed, failed, skipped []string }

const noProfile = "in no profile"

func newTable() *table { return &table{rows: map[string]*row{}} }

// add counts a test that has ended.
func (b *table) add(t *testing.T, test suite.ConformanceTest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range rowsOf(test) {
		r := b.rows[key]
		if r == nil {
			r = &row{}
			b.rows[key] = r
		}
		switch {
		case t.Failed():
			r.failed = append(r.failed, test.ShortName)
		case t.Skipped():
			r.skipped = append(r.skipped, test.ShortName)
		default:
			r.passed = append(r.passed, test.ShortName)
		}
	}
}

// rowsOf names the rows in which a test counts: in each profile that has all its features, as core if they are all core.
func rowsOf(test suite.ConformanceTest) []string {
	var out []string
	for _, p := range profiles {
		level := " core"
		for _, f := range test.Features {
			switch {
			case p.CoreFeatures.Has(f):
			case p.ExtendedFeatures.Has(f):
				level = " extended"
			default:
				level = ""
			}
			if level == "" {
				break
			}
		}
		if level != "" {
			out = append(out, string(p.Name)+level)
		}
	}
	if len(out) == 0 {
		out = append(out, noProfile)
	}
	return out
}

func (b *table) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-22s %6s %6s %7s\n", "", "passed", "failed", "skipped")
	for _, p := range profiles {
		for _, level := range []string{" core", " extended"} {
			b.line(&s, string(p.Name)+level)
		}
	}
	b.line(&s, noProfile)
	var failed []string
	for _, r := range b.rows {
		failed = append(failed, r.failed...)
	}
	slices.Sort(failed)
	for _, name := range slices.Compact(failed) { // a test may count in several profiles
		fmt.Fprintf(&s, "failed: %s\n", name)
	}
	return s.String()
}

func (b *table) line(s *strings.Builder, key string) {
	if r := b.rows[key]; r != nil {
		fmt.Fprintf(s, "%-22s %6d %6d %7d\n", key, len(r.passed), len(r.failed), len(r.skipped))
	}
}

// write writes the table into the log and, unless the path is "", into a file.
func (b *table) write(t *testing.T, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t.Log("\n" + b.String())
	if path == "" {
		return
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Error(err)
	}
}
