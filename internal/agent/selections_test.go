package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/state"
)

func selectionOf(policy, app string) *gateway.Selection {
	return &gateway.Selection{Policy: policy, UID: "u", Spec: "hash", Services: map[string]gateway.ServiceSelectors{
		"web": {Selectors: []map[string]string{{"app": app}}},
	}}
}

// What policies select by Services is in the file as long as the policies are there.
func TestSelectionsAreKept(t *testing.T) {
	st := state.New(state.NewDB())
	table := state.NewTable(st.DB, "selections", func(s *gateway.Selection) string { return s.Policy })
	put := func(s *gateway.Selection) {
		w := st.Write(table)
		table.Put(w, s)
		w.Commit()
	}
	file := filepath.Join(t.TempDir(), selectionsFile)
	k := &selectionKeeper{st: st, table: table, file: file, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.run(ctx) }()
	holds := func(want ...*gateway.Selection) {
		t.Helper()
		all := map[string]*gateway.Selection{}
		for _, s := range want {
			without := *s
			without.Policy = ""
			all[s.Policy] = &without
		}
		var got gateway.Retained
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if got = loadSelections(file, k.log); reflect.DeepEqual(got.Selections, all) {
				return
			}
		}
		t.Fatalf("the file holds %+v, want %d selections", got, len(want))
	}
	first, second := selectionOf("bank/a", "blue"), selectionOf("shop/b", "green")
	put(first)
	st.MarkSynced()
	holds(first)
	put(second)
	holds(first, second)
	w := st.Write(table)
	table.Delete(w, "bank/a")
	w.Commit()
	holds(second)

	// The last change before the end is written too.
	put(first)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	holds(first, second)
}

// What one namespace's policies have selected takes no more room than its bound, and none of it is lost in favour of less.
func TestSelectionsOfANamespaceAreBounded(t *testing.T) {
	long := strings.Repeat("x", 4000)
	var all []*gateway.Selection
	for i := range 1000 {
		all = append(all, selectionOf(fmt.Sprintf("crowd/%03d", i), long))
	}
	all = append(all, selectionOf("shop/b", "green"))
	text, err := encodeSelections(slices.Values(all))
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 3*maxNamespaceSelections/2 {
		t.Errorf("the file has %d bytes", len(text))
	}
	file := filepath.Join(t.TempDir(), selectionsFile)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	got := loadSelections(file, slog.New(slog.DiscardHandler))
	if len(got.Selections) != len(all) {
		t.Fatalf("%d selections, want %d", len(got.Selections), len(all))
	}
	if s := got.Selections["crowd/999"].Services["web"]; !s.All || len(s.Selectors) > 0 {
		t.Errorf("the last selection of the namespace is %+v, want all pods", s)
	}
	for _, key := range []string{"crowd/000", "shop/b"} {
		if s := got.Selections[key].Services["web"]; s.All || len(s.Selectors) != 1 {
			t.Errorf("%s is %+v, want its selector", key, s)
		}
	}
}

func TestSelectionsThatCannotBeRead(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	file := filepath.Join(t.TempDir(), selectionsFile)
	if got := loadSelections(file, log); got.Lost || len(got.Selections) > 0 {
		t.Errorf("without a file: %+v", got)
	}
	for _, text := range []string{"", "{", `{"a/b": 1}`, "[]"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := loadSelections(file, log); !got.Lost {
			t.Errorf("%q: %+v, want lost", text, got)
		}
	}
}
