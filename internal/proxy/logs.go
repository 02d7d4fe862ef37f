package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	linesPerSecond = 50
	longestLine    = 4 << 10
	keptLines      = 10
)

// forwarder passes a program's lines on to slog, no more than linesPerSecond of them, and keeps the last.
type forwarder struct {
	of   string // whose lines they are
	log  *slog.Logger
	pipe *os.File // its closing ends the forwarder
	done chan struct{}

	mu   sync.Mutex
	last []string
}

// forward passes on the lines of a program. It reads until the write end is closed by all that hold it, or r is. It closes r.
func forward(r *os.File, of string, log *slog.Logger) *forwarder {
	f := &forwarder{of: of, log: log, pipe: r, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer r.Close()
		f.run(bufio.NewReaderSize(r, longestLine))
	}()
	return f
}

func (f *forwarder) run(r *bufio.Reader) {
	var second time.Time
	var count, dropped int
	for {
		line, err := r.ReadSlice('\n')
		text := strings.TrimRight(string(line), "\n")
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			_, err = r.ReadSlice('\n')
		}
		if text != "" && !isNoise(text) {
			if now := time.Now(); now.Sub(second) >= time.Second {
				if dropped > 0 {
					f.log.Warn("lines of a log were left out", "of", f.of, "lines", dropped)
				}
				second, count, dropped = now, 0, 0
			}
			if count++; count <= linesPerSecond {
				f.line(text)
			} else {
				dropped++
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				f.log.Warn("a log cannot be read", "of", f.of, "error", err)
			}
			return
		}
	}
}

// noise is in lines of Envoy that say nothing to an operator, and for which Envoy has no setting. They do not count, or one of
// each pod would push out what must be seen.
var noise = []string{
	// A request has no duration to be counted, because its client went away before the answer was complete.
	"\tStats access logger computed non-number value: ",
	// A resource has a field that Envoy's API calls unfinished. Weft chooses the fields, and is tested with them.
	" is marked as work-in-progress. API features marked as ",
}

func isNoise(line string) bool {
	return slices.ContainsFunc(noise, func(n string) bool { return strings.Contains(line, n) })
}

// line passes on "level\tlogger\tmessage"; what has another form, Envoy did not write by its logger.
func (f *forwarder) line(text string) {
	level, logger, message := slog.LevelWarn, "stderr", text
	if parts := strings.SplitN(text, "\t", 3); len(parts) == 3 {
		if l, ok := levels[parts[0]]; ok {
			level, logger, message = l, parts[1], parts[2]
		}
	}
	// The frames of a stack trace, "#0 ...", would push out what led to it.
	if level >= slog.LevelWarn && !strings.HasPrefix(message, "#") {
		f.mu.Lock()
		f.last = append(f.last, message)
		f.last = f.last[max(0, len(f.last)-keptLines):]
		f.mu.Unlock()
	}
	f.log.Log(context.Background(), level, message, f.of, logger)
}

var levels = map[string]slog.Level{
	"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo,
	"warning": slog.LevelWarn, "error": slog.LevelError, "critical": slog.LevelError,
}

// lastWords are the last warnings and errors.
func (f *forwarder) lastWords() string {
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.last, "; ")
}
