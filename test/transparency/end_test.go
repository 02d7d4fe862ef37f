package transparency

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each system call. What takes longer is noted as a timeout, which no case wants.
const patience = 20 * time.Second

// end is one end of a conversation. Its methods work on one connection, note what happens, and give up the conversation
// where it cannot go on.
type end struct {
	order
	// swap waits for the other end, tells it a number and gives the other's.
	swap   func(int) int
	notes  []string
	listen int
	open   []*conn // what is closed at the end
	// made is how many connections this end made, or accepted, and its parts.
	made *atomic.Int32
	// parts are conversations that this end holds beside its own.
	parts *sync.WaitGroup
}

type gaveUp struct{}

// play gives what this end noted. The server listens before the client begins.
func (e *end) play() []string {
	e.listen, e.made, e.parts = -1, new(atomic.Int32), new(sync.WaitGroup)
	defer e.parts.Wait()
	c := findCase(e.Case)
	return e.hold(func(e *end) {
		if e.Client {
			e.meet()
			c.client(e)
			return
		}
		if c.server != nil {
			e.listenOn(c.inline)
			defer e.deafen()
		}
		e.meet()
		if c.server != nil {
			c.server(e)
		}
	})
}

// hold holds a conversation, closes what it left open and gives its notes.
func (e *end) hold(talk func(*end)) (notes []string) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(gaveUp); !ok {
				e.note("%v", r)
			}
		}
		for _, c := range slices.Clone(e.open) {
			e.close(c)
		}
		notes = e.notes
	}()
	talk(e)
	return
}

// meet waits for the other end.
func (e *end) meet() { e.swap(0) }

// deafen ends the listener. A part that still waits there wakes up first: with the descriptor closed it would go on with the
// socket that gets the number next, another conversation's.
func (e *end) deafen() {
	if e.listen < 0 {
		return
	}
	_ = unix.Shutdown(e.listen, unix.SHUT_RDWR)
	e.parts.Wait()
	_ = unix.Close(e.listen)
	e.listen = -1
}

// note adds a line.
func (e *end) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

// stop notes why the conversation cannot go on, and gives it up.
func (e *end) stop(format string, args ...any) {
	e.note(format, args...)
	panic(gaveUp{})
}

// must gives up if a call fails.
func (e *end) must(what string, err error) {
	if err != nil {
		e.stop("%s: %s", what, errnoName(err))
	}
}

func errnoName(err error) string {
	var no unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINPROGRESS):
		return "timeout"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return err.Error()
}

// part holds a conversation of its own with this end's listener, and gives its notes in one line.
func (e *end) part(talk func(*end)) string {
	p := &end{order: e.order, listen: e.listen, made: e.made, parts: e.parts}
	return strings.Join(p.hold(talk), "; ")
}

// start begins n conversations, some at once. The function that it gives waits for them, and notes how many went how.
func (e *end) start(n, atOnce int, talk func(*end)) (wait func()) {
	room, results := make(chan struct{}, atOnce), make(chan string, n)
	for range n {
		e.parts.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			results <- e.part(talk)
		})
	}
	return func() {
		count := map[string]int{}
		for range n {
			count[<-results]++
		}
		for _, r := range slices.Sorted(maps.Keys(count)) {
			e.note("%d times: %s", count[r], r)
		}
	}
}

// parallel holds n conversations, some at once, and notes how many went how.
func (e *end) parallel(n, atOnce int, talk func(*end)) { e.start(n, atOnce, talk)() }
