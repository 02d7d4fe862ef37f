package cni

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// Modes says of each namespace of the cluster what a pod of it may do while no agent answers. A namespace that is not
// there is unknown.
type Modes map[string]Mode

// Mode of a namespace.
type Mode struct {
	// Label is true if the namespace's label says strict.
	Label bool `json:"label,omitempty"`
	// Pod is true if the namespace has, or ever had, a pod whose label says strict: the next may be one, too.
	Pod bool `json:"pod,omitempty"`
}

// Strict reports whether a pod of the namespace may be strict.
func (m Mode) Strict() bool { return m.Label || m.Pod }

// ReadModes reads the file that the agent keeps.
func ReadModes(file string) (Modes, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the agent has left no modes of namespaces: %w", err)
	}
	var m Modes
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("modes of namespaces in %s: %w", file, err)
	}
	return m, nil
}

// WriteModes replaces the file as a whole.
func WriteModes(file string, m Modes) error {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	if err := atomicfile.WriteDurable(file, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("modes of namespaces: %w", err)
	}
	return nil
}
