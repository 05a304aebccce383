// A handler without SA_RESTART must interrupt a read, whether or not a park came first.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
static void h(int s){(void)s;}
int main(){struct sigaction a;memset(&a,0,sizeof a);a.sa_handler=h;sigaction(SIGALRM,&a,0);int p[2];if(pipe(p))return 1;
 int n=0;for(int i=0;i<300;i++){struct itimerval t={{0,0},{0,8000}};setitimer(ITIMER_REAL,&t,0);char c;ssize_t r=read(p[0],&c,1);if(r==-1&&errno==EINTR)n++;}
 printf("eintr %d\n",n);return 0;}
