package servicemap

import (
	"context"
	"encoding/json"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/weft-mesh/weft/internal/testenv"
)

// within bounds all that a test waits for.
const within = time.Minute

// browser is a tab of Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string // of scripts, of the Content-Security-Policy
	asked      []string // URLs
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	file, err := exec.LookPath("chromium")
	if err != nil {
		testenv.Missing(t, "chromium: install/setup.sh chromium")
	}
	// Without its own sandbox, which it has not as root: all that it opens is of this test.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(file), chromedp.NoSandbox, chromedp.WindowSize(1500, 860))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	b := &browser{t: t}
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(b.listen))
	t.Cleanup(cancel)
	b.do()
	return b
}

func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, e.Entry.Text+" "+e.Entry.URL)
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, e.Request.URL)
	}
}

type step = chromedp.Action[chromedp.Void]

func (b *browser) do(steps ...step) {
	b.t.Helper()
	run(b, chromedp.Steps(steps...))
}

// run returns what an action gives. It fails the test if it takes too long.
func run[T any](b *browser, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx := b.ctx
	if chromedp.FromContext(ctx).Target != nil { // the first one starts the browser, which ends with its context
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	out, err := chromedp.Run(ctx, a)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Fatalf("%v; the browser says %q", err, b.complaints)
	}
	return out
}

// eval returns what an expression of JavaScript is.
func eval[T any](b *browser, expression string) (out T) {
	b.t.Helper()
	return run(b, chromedp.Evaluate[T](expression))
}

// await waits until an expression is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	poll := chromedp.Poll[bool](expression, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(within/2))
	if _, err := chromedp.Run(b.ctx, poll); err != nil {
		page := eval[string](b, "document.body.innerText")
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Fatalf("in vain: %s: %v; the browser says %q; the page:\n%s", expression, err, b.complaints, page)
	}
}

// clickEdge clicks where an edge is drawn.
func (b *browser) clickEdge(id string) {
	b.t.Helper()
	at := eval[[]float64](b, `(() => {
		const p = weftMap.cy.getElementById(`+quoted(id)+`).renderedMidpoint(), r = weftMap.cy.container().getBoundingClientRect();
		return [p.x + r.left, p.y + r.top];
	})()`)
	b.do(chromedp.MouseClickXY(at[0], at[1]))
}

func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can be written
	}
	return string(text)
}
