package cluster

import (
	"encoding/json"
	"fmt"
	"os"
)

// kubeconfig writes a file (mode 0600) by which clients reach the API server as the subject. JSON is YAML too.
func (a *authority) kubeconfig(path, url string, s subject) error {
	cert, key, err := a.sign(s)
	if err != nil {
		return err
	}
	type object = map[string]any
	b, err := json.MarshalIndent(object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "weft",
		"clusters":        []object{{"name": "weft", "cluster": object{"server": url, "certificate-authority-data": a.pem}}},
		"users":           []object{{"name": s.name, "user": object{"client-certificate-data": cert, "client-key-data": key}}},
		"contexts":        []object{{"name": "weft", "context": object{"cluster": "weft", "user": s.name}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", s.name, err)
	}
	return nil
}
