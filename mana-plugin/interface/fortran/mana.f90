! The application interface of mana for Fortran 2003 and later: compile this file with the program.
!
! Nothing to link (before glibc 2.34: -ldl). Each function looks for its counterpart in the running process
! and answers MANA_ERR_NOT_RUNNING (mana_running: .false.) where there is none. See docs/guide/interface.md.
module mana
  use, intrinsic :: iso_c_binding
  implicit none
  private

  integer(c_int), parameter, public :: MANA_LEVEL_HIGHEST = 0, MANA_LEVEL_LOCAL = 1, &
       MANA_LEVEL_PARTNER = 2, MANA_LEVEL_GROUP = 3, MANA_LEVEL_GLOBAL = 4
  integer(c_int), parameter, public :: MANA_WAIT = 1
  integer(c_int), parameter, public :: MANA_REQUESTED = 0, MANA_CONTINUED = 1, MANA_RESUMED = 2
  integer(c_int), parameter, public :: MANA_ERR_NOT_RUNNING = -1, MANA_ERR_ARGUMENT = -2, &
       MANA_ERR_FAILED = -3, MANA_ERR_CLOSED = -4, MANA_ERR_BUSY = -5, MANA_ERR_FULL = -6
  integer(c_int), parameter, public :: MANA_EVENT_CHECKPOINT = 1, MANA_EVENT_CONTINUED = 2, &
       MANA_EVENT_RESTARTED = 3

  public :: mana_running, mana_restarts, mana_checkpoint, mana_hold, mana_release
  public :: mana_on, mana_exclude, mana_include, mana_publish, mana_callback

  abstract interface
     subroutine mana_callback(event, data) bind(c)
       import :: c_int, c_ptr
       integer(c_int), value :: event
       type(c_ptr), value :: data
     end subroutine mana_callback
     function plain_call() bind(c) result(r)
       import :: c_int
       integer(c_int) :: r
     end function plain_call
     function checkpoint_call(level, flags) bind(c) result(r)
       import :: c_int
       integer(c_int), value :: level, flags
       integer(c_int) :: r
     end function checkpoint_call
     function text_call(text) bind(c) result(r)
       import :: c_int, c_char
       character(kind=c_char), intent(in) :: text(*)
       integer(c_int) :: r
     end function text_call
     function texts_call(key, value) bind(c) result(r)
       import :: c_int, c_char
       character(kind=c_char), intent(in) :: key(*), value(*)
       integer(c_int) :: r
     end function texts_call
     function on_call(event, callback, data) bind(c) result(r)
       import :: c_int, c_funptr, c_ptr
       integer(c_int), value :: event
       type(c_funptr), value :: callback
       type(c_ptr), value :: data
       integer(c_int) :: r
     end function on_call
     function range_call(address, length) bind(c) result(r)
       import :: c_int, c_ptr, c_size_t
       type(c_ptr), value :: address
       integer(c_size_t), value :: length
       integer(c_int) :: r
     end function range_call
  end interface

  interface
     function dlsym(handle, name) bind(c, name="dlsym") result(found)
       import :: c_ptr, c_char, c_funptr
       type(c_ptr), value :: handle
       character(kind=c_char), intent(in) :: name(*)
       type(c_funptr) :: found
     end function dlsym
  end interface

contains

  ! The function of that name in this process, if there is one.
  function found(name) result(f)
    character(len=*), intent(in) :: name
    type(c_funptr) :: f
    f = dlsym(c_null_ptr, "mana_1_" // name // c_null_char)
  end function found

  ! Is this process under mana?
  function mana_running() result(yes)
    logical :: yes
    procedure(plain_call), pointer :: call_it
    type(c_funptr) :: f
    f = found("running")
    yes = .false.
    if (.not. c_associated(f)) return
    call c_f_procpointer(f, call_it)
    yes = call_it() /= 0
  end function mana_running

  ! How often the program was resumed.
  function mana_restarts() result(r)
    integer(c_int) :: r
    r = plain("restarts")
  end function mana_restarts

  ! Asks for a checkpoint; with MANA_WAIT collective over all ranks.
  function mana_checkpoint(level, flags) result(r)
    integer(c_int), intent(in) :: level, flags
    integer(c_int) :: r
    procedure(checkpoint_call), pointer :: call_it
    type(c_funptr) :: f
    f = found("checkpoint")
    r = MANA_ERR_NOT_RUNNING
    if (.not. c_associated(f)) return
    call c_f_procpointer(f, call_it)
    r = call_it(level, flags)
  end function mana_checkpoint

  ! No checkpoint until as many releases.
  function mana_hold(why) result(r)
    character(len=*), intent(in) :: why
    integer(c_int) :: r
    procedure(text_call), pointer :: call_it
    type(c_funptr) :: f
    f = found("hold")
    r = MANA_ERR_NOT_RUNNING
    if (.not. c_associated(f)) return
    call c_f_procpointer(f, call_it)
    r = call_it(trim(why) // c_null_char)
  end function mana_hold

  function mana_release() result(r)
    integer(c_int) :: r
    r = plain("release")
  end function mana_release

  ! Has callback(event, data) called at every such event, on a thread of mana's own.
  function mana_on(event, callback, data) result(r)
    integer(c_int), intent(in) :: event
    procedure(mana_callback) :: callback
    type(c_ptr), intent(in), optional :: data
    integer(c_int) :: r
    procedure(on_call), pointer :: call_it
    type(c_funptr) :: f
    type(c_ptr) :: passed
    f = found("on")
    r = MANA_ERR_NOT_RUNNING
    if (.not. c_associated(f)) return
    passed = c_null_ptr
    if (present(data)) passed = data
    call c_f_procpointer(f, call_it)
    r = call_it(event, c_funloc(callback), passed)
  end function mana_on

  ! The whole pages of the range are left out of images; zero after a restart.
  function mana_exclude(address, length) result(r)
    type(c_ptr), intent(in) :: address
    integer(c_size_t), intent(in) :: length
    integer(c_int) :: r
    r = over("exclude", address, length)
  end function mana_exclude

  function mana_include(address, length) result(r)
    type(c_ptr), intent(in) :: address
    integer(c_size_t), intent(in) :: length
    integer(c_int) :: r
    r = over("include", address, length)
  end function mana_include

  ! Leaves a key and a value for the report.
  function mana_publish(key, value) result(r)
    character(len=*), intent(in) :: key, value
    integer(c_int) :: r
    procedure(texts_call), pointer :: call_it
    type(c_funptr) :: f
    f = found("publish")
    r = MANA_ERR_NOT_RUNNING
    if (.not. c_associated(f)) return
    call c_f_procpointer(f, call_it)
    r = call_it(trim(key) // c_null_char, trim(value) // c_null_char)
  end function mana_publish

  function plain(name) result(r)
    character(len=*), intent(in) :: name
    integer(c_int) :: r
    procedure(plain_call), pointer :: call_it
    type(c_funptr) :: f
    f = found(name)
    r = MANA_ERR_NOT_RUNNING
    if (.not. c_associated(f)) return
    call c_f_procpointer(f, call_it)
    r = call_it()
  end function plain

  function over(name, address, length) result(r)
    character(len=*), intent(in) :: name
    type(c_ptr), intent(in) :: address
    integer(c_size_t), intent(in) :: length
    integer(c_int) :: r
    procedure(range_call), pointer :: call_it
    type(c_funptr) :: f
    f = found(name)
    r = MANA_ERR_NOT_RUNNING
    if (.not. c_associated(f)) return
    call c_f_procpointer(f, call_it)
    r = call_it(address, length)
  end function over
end module mana
