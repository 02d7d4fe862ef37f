package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/model"
)

func loadEnforced(file string) (map[string]*inForce, error) {
	out, versions := map[string]*inForce{}, map[string][]*model.Policy{}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &versions)
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", file, err)
	}
	for key, v := range versions {
		if len(v) > 0 {
			out[key] = &inForce{versions: v}
		}
	}
	return out, nil
}

// saveEnforced replaces the file in one step. Workloads without a policy are left out.
func saveEnforced(file string, force map[string]*inForce) error {
	versions := map[string][]*model.Policy{}
	for key, f := range force {
		if f.written() {
			versions[key] = f.versions
		}
	}
	text, err := json.Marshal(versions)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, text, 0o600)
}
