package gatewaysecrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// maxFile bounds what is read of the file, in bytes. All Secrets and ConfigMaps of the longest kind have less.
const maxFile = (maxSecrets + maxBundles) * maxLine

// kept is the file: what the last agent held.
type kept struct {
	Refused bool           `json:"refused,omitempty"`
	Secrets []*certificate `json:"secrets,omitempty"`
	Bundles []*bundle      `json:"bundles,omitempty"`
}

// keep replaces the file. It holds private keys, so nobody but its owner can read it.
func (r *Receiver) keep(h *held) {
	if r.cfg.File == "" {
		return
	}
	k := kept{Refused: h.refused}
	for _, key := range slices.Sorted(maps.Keys(h.secrets)) {
		k.Secrets = append(k.Secrets, certificateOf(h.secrets[key]))
	}
	for _, key := range slices.Sorted(maps.Keys(h.bundles)) {
		k.Bundles = append(k.Bundles, bundleOf(h.bundles[key]))
	}
	text, err := json.Marshal(k)
	if err == nil {
		err = atomicfile.Write(r.cfg.File, text, 0o600)
	}
	if err != nil {
		// What is there may hold keys that this node must not have any more.
		err = errors.Join(err, remove(r.cfg.File))
		r.cfg.Log.Warn("failed to keep the Secrets of Gateways for the next agent", "file", r.cfg.File, "error", err)
	}
}

func remove(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// load returns what was kept; nil if nothing was.
func (r *Receiver) load() (*held, error) {
	if r.cfg.File == "" {
		return nil, nil
	}
	info, err := os.Lstat(r.cfg.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() > maxFile:
		return nil, fmt.Errorf("%s is not a file of at most %d bytes that only its owner can read", r.cfg.File, maxFile)
	}
	text, err := os.ReadFile(r.cfg.File)
	if err != nil {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", r.cfg.File, err)
	}
	h := newHeld()
	h.refused = k.Refused
	for _, c := range k.Secrets {
		if _, err := h.add(&message{Put: c}); err != nil {
			return nil, fmt.Errorf("%s: %w", r.cfg.File, err)
		}
	}
	for _, b := range k.Bundles {
		if err := h.addBundle(b); err != nil {
			return nil, fmt.Errorf("%s: %w", r.cfg.File, err)
		}
	}
	return h, nil
}
