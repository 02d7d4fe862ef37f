package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Settings are what the plugin is told in the network configuration.
type Settings struct {
	// Socket, Modes and LogFile are paths on the node.
	Socket, Modes, LogFile string
}

// entry is the plugin's part of a conflist.
func (s Settings) entry() (json.RawMessage, error) {
	return json.Marshal(struct {
		Type    string `json:"type"`
		Socket  string `json:"socket"`
		Modes   string `json:"modes"`
		LogFile string `json:"logFile,omitempty"`
	}{Type, s.Socket, s.Modes, s.LogFile})
}

// list is a conflist: what is in it is kept as it was written, but for the order of names.
type list struct {
	fields  map[string]json.RawMessage
	plugins []json.RawMessage
}

// isConfiguration reports whether container runtimes read a file of this name, hidden or not (libcni.ConfFiles). They take
// the first one by name.
func isConfiguration(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
}

// parseConfiguration reads a conflist, or a configuration of a single plugin as the list of one that it is worth.
func parseConfiguration(name string, text []byte) (*list, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	if filepath.Ext(name) != ".conflist" {
		return listOfOne(fields)
	}
	l := &list{fields: fields}
	if err := json.Unmarshal(fields["plugins"], &l.plugins); err != nil {
		return nil, fmt.Errorf("plugins: %w", orMissing(fields["plugins"], err))
	}
	if len(l.plugins) == 0 {
		return nil, errors.New("there is no plugin in it")
	}
	for i, p := range l.plugins {
		if t, err := typeOf(p); err != nil || t == "" {
			return nil, fmt.Errorf("plugin %d has no type", i)
		}
	}
	return l, nil
}

func orMissing(field json.RawMessage, err error) error {
	if field == nil {
		return errors.New("missing")
	}
	return err
}

// listOfOne moves what a list holds for all of its plugins out of the only one.
func listOfOne(fields map[string]json.RawMessage) (*list, error) {
	if fields == nil {
		return nil, errors.New("it is null")
	}
	l := &list{fields: map[string]json.RawMessage{}}
	plugin := map[string]json.RawMessage{}
	for k, v := range fields {
		switch k {
		case "name", "cniVersion":
			l.fields[k] = v
		default:
			plugin[k] = v
		}
	}
	text, err := json.Marshal(plugin)
	if err != nil {
		return nil, err
	}
	if t, err := typeOf(text); err != nil || t == "" {
		return nil, errors.New("it names no type of plugin")
	}
	l.plugins = []json.RawMessage{text}
	return l, nil
}

func typeOf(plugin json.RawMessage) (string, error) {
	var p struct {
		Type string `json:"type"`
	}
	err := json.Unmarshal(plugin, &p)
	return p.Type, err
}

// isOurs reports whether a plugin of a list is Weft's.
func isOurs(plugin json.RawMessage) bool {
	t, err := typeOf(plugin)
	return err == nil && t == Type
}

// add puts the plugin last, or where it stands already, with these settings, and reports whether that is a change. Another
// plugin after it is left there: two installers that both want the last place would never end.
func (l *list) add(s Settings) (bool, error) {
	want, err := s.entry()
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(l.plugins, isOurs)
	if at < 0 {
		l.plugins = append(l.plugins, want)
		return true, nil
	}
	same := equal(l.plugins[at], want)
	l.plugins[at] = want
	n := len(l.plugins)
	l.plugins = append(l.plugins[:at+1], slices.DeleteFunc(l.plugins[at+1:], isOurs)...)
	if at == 0 && len(l.plugins) > 1 { // it needs a result
		l.plugins = append(l.plugins[1:], l.plugins[0])
		return true, nil
	}
	return !same || len(l.plugins) != n, nil
}

// remove takes the plugin out and reports whether it was there.
func (l *list) remove() bool {
	n := len(l.plugins)
	l.plugins = slices.DeleteFunc(l.plugins, isOurs)
	return len(l.plugins) != n
}

func (l *list) text() ([]byte, error) {
	plugins, err := json.Marshal(l.plugins)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{"plugins": plugins}
	for k, v := range l.fields {
		if k != "plugins" {
			fields[k] = v
		}
	}
	text, err := json.MarshalIndent(fields, "", "  ")
	return append(text, '\n'), err
}

// equal compares JSON but for white space and the order of names.
func equal(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, err1 := json.Marshal(x)
	q, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(p, q)
}
