package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// report prints lines that pass or fail, and counts those that fail.
type report struct {
	w      io.Writer
	color  bool
	passed int
	failed int
}

func newReport(w io.Writer) *report {
	f, ok := w.(*os.File)
	return &report{w: w, color: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""}
}

func (r *report) paint(code, s string) string {
	if !r.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (r *report) section(title string) { fmt.Fprintf(r.w, "\n%s\n", r.paint("1", title)) }

// text prints plain lines.
func (r *report) text(format string, args ...any) { fmt.Fprintf(r.w, format+"\n", args...) }

const nameWidth = 44

// line prints what was checked, whether it holds, and the figures.
func (r *report) line(ok bool, name, format string, args ...any) {
	mark := r.paint("32", "✓")
	if r.passed++; !ok {
		mark = r.paint("31", "✗")
		r.passed--
		r.failed++
	}
	if n := len([]rune(name)); n < nameWidth {
		name += strings.Repeat(" ", nameWidth-n)
	}
	fmt.Fprintf(r.w, "  %s %s  %s\n", mark, name, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n      "))
}

// fail is a line for a check that could not be made.
func (r *report) fail(name string, err error) { r.line(false, name, "%v", err) }

// number groups thousands.
func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// millis rounds for people.
func millis(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
