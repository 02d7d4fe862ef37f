package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"time"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// selectionsFile in the state directory holds what policies have selected by Services, so that a Service that changed
	// takes no pod out of a policy when the agent or the machine restarts.
	selectionsFile = "selections.json"
	// selectionsPause is between two writes, and selectionsRetry after one that failed.
	selectionsPause = 100 * time.Millisecond
	selectionsRetry = 5 * time.Second
	// maxNamespaceSelections bounds the bytes of one namespace's policies in the file. For those beyond it the file only says
	// that they select every pod of the namespace.
	maxNamespaceSelections = 1 << 20
)

// selectionKeeper writes what policies select by Services to a file. The running agent alone writes it.
type selectionKeeper struct {
	st    *state.State
	table *state.Table[*gateway.Selection]
	file  string
	log   *slog.Logger
}

// run keeps the file until ctx ends, and then writes what changed last.
func (k *selectionKeeper) run(ctx context.Context) error {
	feed := k.st.Feed(k.table)
	defer feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-k.st.Synced():
	}
	feed.Take()
	for pending := true; ; {
		if pending {
			pause := selectionsPause
			if pending = !k.save(); pending {
				pause = selectionsRetry
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		} else {
			select {
			case <-ctx.Done():
			case <-feed.Ready():
			}
		}
		keys, _ := feed.Take()
		if _, ok := keys[k.table.AnyKey()]; ok {
			pending = true
		}
		if ctx.Err() != nil {
			if pending {
				k.save()
			}
			return nil
		}
	}
}

// save writes the file. It reports whether it could.
func (k *selectionKeeper) save() bool {
	text, err := encodeSelections(k.table.All(k.st.Snapshot()))
	if err == nil {
		err = atomicfile.WriteDurable(k.file, text, 0o600)
	}
	if err != nil {
		k.log.Error("what policies select by Services cannot be written down: a Service that changes may take pods out of a policy when the agent restarts",
			"file", k.file, "error", err)
	}
	return err == nil
}

// encodeSelections returns the content of the file for selections in the order of their policies.
func encodeSelections(selections iter.Seq[*gateway.Selection]) ([]byte, error) {
	out, size := map[string]json.RawMessage{}, map[string]int{}
	for s := range selections {
		text, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		namespace, _ := model.SplitKey(s.Policy)
		if size[namespace] += len(text); size[namespace] > maxNamespaceSelections {
			if text, err = json.Marshal(withoutSelectors(s)); err != nil {
				return nil, err
			}
		}
		out[s.Policy] = text
	}
	return json.Marshal(out)
}

// withoutSelectors returns a selection of every pod of the namespace in place of s.
func withoutSelectors(s *gateway.Selection) *gateway.Selection {
	all := *s
	all.Services = map[string]gateway.ServiceSelectors{}
	for name := range s.Services {
		all.Services[name] = gateway.ServiceSelectors{All: true}
	}
	return &all
}

// loadSelections reads the file. What is in a file that cannot be read counts as lost.
func loadSelections(file string, log *slog.Logger) gateway.Retained {
	var kept gateway.Retained
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return kept
	}
	if err == nil {
		err = json.Unmarshal(text, &kept.Selections)
	}
	if err != nil {
		log.Error("what policies selected by Services is not known: those policies select every pod of their namespaces until they are changed",
			"file", file, "error", err)
		return gateway.Retained{Lost: true}
	}
	return kept
}
