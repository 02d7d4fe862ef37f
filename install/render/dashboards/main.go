// Command dashboards makes the Grafana dashboards of the chart, and docs/dashboards.md, which lists what they ask:
//
//	go -C install/render run ./dashboards
//
// A test tells when the files are not what it makes.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := write("../chart/dashboards", "../../docs/dashboards.md"); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

// write makes a file for each board in dir, and the page.
func write(dir, page string) error {
	for _, b := range boards {
		text, err := render(b)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, b.name+".json"), text, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(page, reference(), 0o644)
}

// render returns the JSON of a board as Grafana reads it.
func render(b board) ([]byte, error) {
	d, err := b.build()
	if err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", b.name, err)
	}
	text, err := json.MarshalIndent(d, "", " ")
	return append(text, '\n'), err
}
