package controller

import (
	"context"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"

	"github.com/weft-mesh/weft/internal/state"
)

const (
	workers    = 8 // at a time
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// queue calls sync for items that changed, several at a time but never for one item twice at once, and again after
// failures.
type queue[T comparable] struct {
	workqueue.TypedRateLimitingInterface[T]
	log  *slog.Logger
	what string // of items that fail, for the log
	sync func(context.Context, T) error
}

func newQueue[T comparable](log *slog.Logger, what string, sync func(context.Context, T) error) *queue[T] {
	return &queue[T]{
		workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](firstRetry, lastRetry)),
		log, what, sync,
	}
}

// run feeds the queue with the items of changed keys and works on them until the context ends.
func (q *queue[T]) run(ctx context.Context, feed *state.Feed, items func(state.Key, func(T))) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for q.next(ctx) {
			}
		})
	}
	defer wg.Wait()
	defer q.ShutDown()
	for {
		select {
		case <-ctx.Done():
			return
		case <-feed.Ready():
		}
		keys, _ := feed.Take()
		for k := range keys {
			items(k, q.Add)
		}
	}
}

// next handles one item and reports whether there may be more.
func (q *queue[T]) next(ctx context.Context) bool {
	i, shutdown := q.Get()
	if shutdown {
		return false
	}
	defer q.Done(i)
	if ctx.Err() != nil {
		return false
	}
	err := q.sync(ctx, i)
	switch {
	case err == nil || apierrors.IsNotFound(err):
		q.Forget(i)
		return true
	case ctx.Err() != nil:
		return false
	case !apierrors.IsConflict(err): // who was faster is seen soon
		q.log.Warn(q.what+" not written, tried again", "object", i, "error", err)
	}
	q.AddRateLimited(i)
	return true
}
