package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// output is the -o flag.
type output struct {
	format string
	known  []string
}

func (o *output) flag(cmd *cobra.Command, known ...string) {
	o.known = known
	cmd.Flags().StringVarP(&o.format, "output", "o", known[0], "one of "+strings.Join(known, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
}

func (o *output) check() error {
	if !slices.Contains(o.known, o.format) {
		return fmt.Errorf("-o %s: there are %s", o.format, strings.Join(o.known, ", "))
	}
	return nil
}

// structured prints a value as JSON or YAML, and reports whether that was asked for. A list without elements is [], so that
// programs which read it need not know null.
func (o *output) structured(w io.Writer, v any) (done bool, err error) {
	var text []byte
	if list := reflect.ValueOf(v); list.Kind() == reflect.Slice && list.Type().Elem().Kind() != reflect.Uint8 && list.IsNil() {
		v = []any{}
	}
	switch o.format {
	case "json":
		if text, err = json.MarshalIndent(v, "", "  "); err == nil {
			text = append(text, '\n')
		}
	case "yaml":
		text, err = yaml.Marshal(v)
	default:
		return false, nil
	}
	if err != nil {
		return true, err
	}
	_, err = w.Write(text)
	return true, err
}

// column is a column of a table. Wide ones are shown by -o wide only.
type column[T any] struct {
	head string
	wide bool
	of   func(T) string
}

// printTable prints rows the way kubectl does; empty cells are <none>.
func printTable[T any](w io.Writer, rows []T, columns []column[T], wide bool) error {
	if !wide {
		columns = slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return c.wide })
	}
	tw := newTabWriter(w)
	for i, c := range columns {
		cell(tw, c.head, i == len(columns)-1)
	}
	for _, r := range rows {
		for i, c := range columns {
			text := c.of(r)
			if text == "" {
				text = "<none>"
			}
			cell(tw, text, i == len(columns)-1)
		}
	}
	return tw.Flush()
}

func newTabWriter(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 6, 4, 3, ' ', 0) }

// cell writes one cell. Text from elsewhere cannot break the table or reach the terminal's controls.
func cell(w io.Writer, text string, last bool) {
	end := "\t"
	if last {
		end = "\n"
	}
	fmt.Fprint(w, printable(text), end)
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '�'
		}
		return r
	}, text)
}

// join gives the first n of a list, and how many more there are.
func join[T any](list []T, n int, text func(T) string) string {
	var out []string
	for i, v := range list {
		if n > 0 && i == n {
			out = append(out, fmt.Sprintf("+%d", len(list)-n))
			break
		}
		out = append(out, text(v))
	}
	return strings.Join(out, ",")
}

func same(s string) string { return s }

func stringer[T fmt.Stringer](v T) string { return v.String() }

// age gives a duration as kubectl does: its largest units.
func age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 0:
		return "-" + age(-d)
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	days := int(d.Hours() / 24)
	if days < 2*365 {
		return fmt.Sprintf("%dd", days)
	}
	return fmt.Sprintf("%dy", days/365)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
